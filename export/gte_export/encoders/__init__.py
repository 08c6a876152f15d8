"""The encoder in PyTorch, a file for each way in which its layers compute. Attention is given to it."""
