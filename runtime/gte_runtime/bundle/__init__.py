"""A directory that runs: opened, checked, loaded, proven."""
