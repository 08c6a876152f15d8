"""Corpora: rows of files in, vectors in files out, by a job that can be stopped and resumed at any moment.

Knows files, tables and the public `Embedder`; nothing of graphs and devices.
"""
