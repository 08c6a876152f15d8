"""Sessions that run batches on a CPU or on NVIDIA GPUs. The only folder that imports ONNX Runtime; it knows
no text and no plan."""
