"""Exact search, against the scores of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import gte, rows

from gte_runtime import Embedder
from gte_runtime.errors import ConfigError
from gte_runtime.jobs.rows import of_texts, open_rows
from gte_runtime.jobs.search import Index, Weights

TEXTS = ["北京", "how to sort quickly", "the capital of France is Paris", "快排算法介绍", "Paris", ""]


@pytest.mark.parametrize("weights", [Weights(), Weights(1, 0), Weights(0, 1), Weights(0.5, 2)])
@pytest.mark.parametrize("dim", [None, 64])
def test_scores_are_those_of_pairs(mini_bundle: Path, weights: Weights, dim: int | None):
    """Dense, sparse and hybrid; the best come first, and of equal ones the first."""
    query = "what is the capital of China?"
    with Embedder.open(mini_bundle, threads=1) as embedder:
        index = Index(embedder, of_texts(TEXTS), weights, dim=dim)
        pairs = [(query, text) for text in TEXTS]
        expected = embedder.score(pairs, weights.dense, weights.sparse, dim=dim)
        found = index.search(query, 4)
        np.testing.assert_allclose(index.scores(query), expected, atol=1e-6)
        if weights == Weights():
            dense = embedder.score(pairs, 1, 0, dim=dim)
            np.testing.assert_allclose(index.scores(query, weights=Weights(1, 0)), dense, atol=1e-6)
        if not weights.sparse:
            with pytest.raises(ConfigError, match="without the vectors"):
                index.scores(query, weights=Weights())
    assert [one.index for one in found] == np.argsort(-expected, kind="stable")[:4].tolist()
    assert [one.document.text for one in found] == [TEXTS[one.index] for one in found]


def test_rows_that_cannot_be_embedded(mini_bundle: Path, tmp_path: Path):
    """They keep their places, and the others are found."""
    (tmp_path / "a.jsonl").write_text('not json\n{"text": "Paris"}\n{"text": null}\n')
    with Embedder.open(mini_bundle, threads=1) as embedder:
        index = Index(embedder, open_rows([str(tmp_path / "a.jsonl")]), Weights())
        (found,) = index.search("Paris", 9)
    assert found.index == 1
    assert sorted(index.rejected) == [0, 2]


def test_the_command(mini_bundle: Path, tmp_path: Path):
    """A file of any form, several queries, carried fields."""
    lines = [{"id": n, "lang": "x", "text": text} for n, text in enumerate(TEXTS)]
    (tmp_path / "a.json").write_text(json.dumps(lines), encoding="utf-8")
    options = ["--model", str(mini_bundle), "-i", str(tmp_path / "a.json"), "--keep", "lang", "-k", "2"]
    done = gte("search", *options, "--format", "jsonl", "Paris", "北京")
    found = rows(done)
    assert [(row["query"], row["id"], row["text"]) for row in found if row["score"] > 0.9] == [
        ("Paris", 4, "Paris"),
        ("北京", 0, "北京"),
    ]
    assert {row["lang"] for row in found} == {"x"}
    table = gte("search", *options, "Paris").stdout.decode().splitlines()
    assert len(table) == 2
    assert table[0].endswith("x  Paris")
    (tmp_path / "empty.txt").write_bytes(b"")
    done = gte("search", "--model", str(mini_bundle), "-i", str(tmp_path / "empty.txt"), "Paris")
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"there are no texts to search in" in done.stderr
