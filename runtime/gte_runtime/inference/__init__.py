"""Token ids in, model states out. This folder knows no text, no tokenizer and no ONNX Runtime."""
