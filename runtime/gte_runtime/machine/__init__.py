"""What is under us: processors, memory, GPUs, files. It knows no model."""
