"""Published numbers are compared where they exist.

The real weights are not here, so a stand-in is published.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gte_runtime import Embedder, Reranker
from gte_runtime.bundle.directory import Bundle
from gte_runtime.format.models import models_directory
from gte_runtime.format.named import named_models
from gte_runtime.tokenization import Tokenizer
from gte_runtime.verify import OF_VECTORS, compare, known_as, read_published

TEXTS = ["one", "two", "北京"]
KNOWN = named_models(models_directory())


def tokenizer(bundle: Path) -> Tokenizer:
    return Tokenizer((bundle / "tokenizer.json").read_bytes())


def test_real_model_is_known_by_its_hash(tiny_bundle: Path):
    """gte-multilingual-base's file hash leads to it whatever it is called; any other leads nowhere."""
    manifest = Bundle.open(tiny_bundle).manifest
    assert known_as(manifest, KNOWN) is None
    found = known_as(
        replace(manifest, source="f5a35a10faa54da7717870af1517c9b41e9bd8e3880bc5a8e9363d4c3c63e9b0"), KNOWN
    )
    assert found is KNOWN["gte-multilingual-base"]


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        (
            "Alibaba-NLP/gte-multilingual-base@9bbca17d9273fd0d03d5725c7a4b0f6b45142062",
            "gte-multilingual-base",
        ),
        ("Alibaba-NLP/gte-multilingual-base@7fc06782350c1a83f88b15dd4b38ef853d3b8503", None),
        ("Snowflake/snowflake-arctic-embed-m-v2.0@" + "0" * 40, "snowflake-arctic-embed-m-v2.0"),
        ("somebody/gte-multilingual-base@9bbca17d9273fd0d03d5725c7a4b0f6b45142062", None),
        ("", None),
    ],
)
def test_real_models_are_known_by_their_origin(tiny_bundle: Path, origin: str, name: str | None):
    """By repository and, where the numbers are of one commit, by that."""
    found = known_as(replace(Bundle.open(tiny_bundle).manifest, origin=origin), KNOWN)
    assert (found and found.name) == name


def published_vectors(gte: Embedder, tokens: Tokenizer) -> dict[str, dict[str, Any]]:
    """What would be published for the stand-in."""
    dense, sparse = gte.encode(TEXTS).dense, gte.encode(TEXTS).sparse
    assert dense is not None
    assert sparse is not None
    common = {"source": "a test", "texts": TEXTS}
    return {
        "ids": common
        | {"kind": "ids", "ids": [t.ids.tolist() for t in tokens.encode(TEXTS, max_length=512)]},
        "states": common
        | {"kind": "states", "cls": gte.states(TEXTS).tolist(), "cosine": 0.99999, "tolerance": 2e-3},
        "cosines": common
        | {"kind": "cosines", "cosines": (dense[0] @ dense[1:].T).tolist(), "tolerance": 1e-5},
        "query_cosines": {
            "kind": "query_cosines",
            "source": "a test",
            "query": TEXTS[0],
            "documents": TEXTS[1:],
            "cosines": (dense[0] @ dense[1:].T).tolist(),
            "tolerance": 3e-3,
        },
        "weights": common | {"kind": "weights", "count": sum(len(v.indices) for v in sparse), "tolerance": 1},
    }


def spoil(check: dict[str, Any]) -> dict[str, Any]:
    """One number a little off."""
    if check["kind"] == "ids":
        return check | {"ids": [*check["ids"][:-1], [0, 2]]}
    if check["kind"] == "states":
        return check | {
            "cls": [check["cls"][0], (np.array(check["cls"][1]) * 1.01).tolist(), check["cls"][2]]
        }
    if check["kind"] == "weights":
        return check | {"count": check["count"] + 2}
    key = "cosines" if "cosines" in check else "logits"
    return check | {key: [check[key][0] + 0.01, *check[key][1:]]}


@pytest.mark.parametrize("kind", ["ids", *OF_VECTORS])
def test_vectors(tiny_bundle: Path, kind: str):
    """Right numbers pass, wrong ones are told from them, and the lines name the source."""
    tokens = tokenizer(tiny_bundle)
    with Embedder.open(tiny_bundle) as gte:
        check = published_vectors(gte, tokens)[kind]
        right, wrong = list(compare([check], gte, tokens)), list(compare([spoil(check)], gte, tokens))
    assert all(found.good for found in right)
    assert [found.good for found in wrong].count(False) == 1
    assert all("a test" in found.line for found in right)


def test_logits(reranker_bundle: Path):
    """The same of a reranker."""
    pairs = [("one", "two"), ("北京", "China")]
    tokens = tokenizer(reranker_bundle)
    with Reranker.open(reranker_bundle) as reranker:
        logits = reranker.score(pairs).tolist()
        check = {
            "kind": "logits",
            "source": "a test",
            "pairs": [list(pair) for pair in pairs],
            "logits": logits,
            "tolerance": 2e-3,
        }
        right, wrong = (
            list(compare([check], reranker, tokens)),
            list(compare([spoil(check)], reranker, tokens)),
        )
    assert [found.good for found in right] == [True, True]
    assert [found.good for found in wrong] == [False, True]
    assert "1.0e-02" in wrong[0].line


PLANETS = {
    "gte-multilingual-base": (0.63711, 0.92462, 0.78728, 0.75058),
    "gte-base-en-v1.5": (0.52348, 0.78222, 0.52774, 0.63725),
    "gte-large-en-v1.5": (0.6413, 0.87381, 0.67332, 0.77191),
    "stella_en_400M_v5": (0.55998, 0.83601, 0.69783, 0.70312),
    "vietnamese-document-embedding": (0.4308, 0.87254, 0.62065, 0.49873),
}
"""Of sentence-transformers' own tests, in float32."""


@pytest.mark.parametrize("name", PLANETS)
def test_values_of_sentence_transformers(name: str):
    """They are published for five models, within 0.003, and compared without a prompt that is not there."""
    (check,) = [one for one in read_published(KNOWN[name]) if one["kind"] == "query_cosines"]
    assert tuple(check["cosines"]) == PLANETS[name]
    assert (check["query"], check["tolerance"]) == ("Which planet is known as the Red Planet?", 0.003)
    assert len(check["documents"]) == 4
    assert check["documents"][1].startswith("Mars")


def test_the_query_has_its_prompt(tiny_bundle: Path, tmp_path: Path):
    """As `encode_query` of sentence-transformers puts it; documents have none."""
    with Embedder.open(tiny_bundle) as gte:
        texts = ["query: one", "two", "three"]
        dense = gte.encode(texts).dense
        prompted = Embedder(replace(gte.manifest, prompts={"query": "query: "}), gte.tokenizer, gte.engine)
        check = {
            "kind": "query_cosines", "source": "a test", "query": "one", "documents": texts[1:],
            "cosines": (dense[0] @ dense[1:].T).tolist(), "tolerance": 1e-5,
        }  # fmt: skip
        assert all(found.good for found in compare([check], prompted, gte.tokenizer))
        assert not all(found.good for found in compare([check], gte, gte.tokenizer))
