"""Traces the PyTorch encoder into graphs without weights. Maintainers use it; users of vectors do not."""
