"""What calls return shows itself in one line, whatever it holds."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gte_runtime import Embedder, Ranked, Reranker, SparseVector
from gte_runtime.compat import BGEM3FlagModel, CrossEncoder, GTEEmbedding, SentenceTransformer
from gte_runtime.integrations.mteb import GteEncoder, GteReranker, GteSearch


@pytest.fixture(scope="module")
def gte(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle, threads=1) as gte:
        yield gte


def test_results_in_one_line(gte: Embedder):
    """Numbers of rows and tokens, not the arrays."""
    out = gte.encode(["a b " * 90, "", "c\nd"], dim=32, max_length=20)
    tokens = int(out.tokens.sum())
    assert repr(out) == f"Embeddings(3 texts, dense [3, 32], sparse [3], {tokens} tokens, 1 truncated)"
    assert repr(gte.encode("a", dense=False)) == "Embeddings(1 texts, sparse [1], 3 tokens)"
    (part,) = gte.stream(["a", None], sparse=False)
    assert repr(part) == "Embeddings(1 texts, dense [1, 64], 3 tokens, 1 rejected)"
    assert repr(out.sparse).startswith("SparseVectors(3 vectors, ")
    vector = SparseVector(np.arange(9, dtype=np.int32), np.linspace(0.5, 1, 9, dtype=np.float32))
    assert repr(vector) == "SparseVector(9 tokens: {0: 0.5, 1: 0.5625, 2: 0.625, 3: 0.6875, ...})"
    assert repr(SparseVector(vector.indices[:1], vector.values[:1])) == "SparseVector(1 tokens: {0: 0.5})"
    assert len(repr(Ranked(3, 1.25, "long\n" * 1000))) < 80
    assert repr(Ranked(3, 1.25)) == "Ranked(index=3, score=1.25)"


def test_results_can_be_pickled(gte: Embedder):
    out = gte.encode(["a", "北京"])
    copy = pickle.loads(pickle.dumps(out))
    assert repr(copy) == repr(out)
    np.testing.assert_array_equal(copy.dense, out.dense)
    assert copy.sparse[1].as_dict() == out.sparse[1].as_dict()


@pytest.mark.parametrize("kind", [SentenceTransformer, BGEM3FlagModel, GTEEmbedding, GteEncoder, GteSearch])
def test_models_in_one_line(kind: Any, tiny_bundle: Path):
    model = kind(str(tiny_bundle), threads=1)
    inside = "Embedder('gte-tiny-random', variant='cpu-fp32', provider='cpu', threads=1)"
    assert repr(model) == f"{kind.__name__}({inside})"


def test_rerankers_in_one_line(reranker_bundle: Path):
    inside = "Reranker('gte-tiny-reranker', variant='cpu-fp32', provider='cpu', threads=1)"
    with Reranker.open(reranker_bundle, threads=1) as gte:
        assert repr(gte) == inside
        out = gte.evaluate([("a", "b"), ("a " * 90, "b")], max_length=20)
        assert repr(out) == f"Scores(2 pairs, {int(out.tokens.sum())} tokens, 1 truncated)"
    for kind in (CrossEncoder, GteReranker):
        assert repr(kind(str(reranker_bundle), threads=1)) == f"{kind.__name__}({inside})"
