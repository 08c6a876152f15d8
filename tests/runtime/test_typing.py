"""What type checkers know of results: `make lint` checks these lines, and they hold when they run."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np

from gte_runtime import Embedder, Embeddings, SparseVectors
from gte_runtime.arrays import Float32
from gte_runtime.results import DenseEmbeddings, HybridEmbeddings, SparseEmbeddings


def test_vectors_that_were_requested_are_no_optional_ones(tiny_bundle: Path):
    """So that `out.dense @ out.dense.T` needs no assert before it."""
    with Embedder.open(tiny_bundle, threads=1) as gte:
        default = gte.encode(["a"])
        assert_type(default, DenseEmbeddings)
        assert_type(default.dense, Float32)
        assert_type(default.sparse, SparseVectors | None)
        assert_type(gte.encode("a", dim=32, sparse=False).dense, Float32)
        both = gte.encode("a", sparse=True, dim=32)
        assert_type(both, HybridEmbeddings)
        assert_type(both.dense, Float32)
        assert_type(both.sparse, SparseVectors)
        for sparse in (gte.encode("a", False, True), gte.encode("a", dense=False, sparse=True)):
            assert_type(sparse, SparseEmbeddings)
            assert_type(sparse.sparse, SparseVectors)
            assert sparse.dense is None
        chosen = bool(len("a"))
        assert_type(gte.encode("a", chosen), Embeddings)
        assert isinstance(default.dense, np.ndarray)
        assert isinstance(both.sparse, SparseVectors)
