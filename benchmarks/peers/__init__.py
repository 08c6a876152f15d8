"""The engines of benchmarks/cpu.py: one worker each, and what the driver needs to run them side by side."""
