"""The encoder in PyTorch, a file for each way in which its layers compute. How attention runs is given to it."""
