"""The peers of benchmarks/cpu.py and gpu.py: a worker for each, and what the drivers need to run them."""
