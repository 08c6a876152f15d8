"""What the hub ships, as numpy arrays and checked settings."""
