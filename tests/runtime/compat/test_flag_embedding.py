"""FlagEmbedding's BGE-M3 class shape: keys, wrapping, scores, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import Golden

from gte_runtime.compat import BGEM3FlagModel
from gte_runtime.errors import ConfigError, InputError

DROPPED = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> BGEM3FlagModel:
    return BGEM3FlagModel(str(tiny_bundle), use_fp16=True)


def expected_weights(golden: Golden, text: int) -> dict[str, float]:
    """Largest weight per id in order of first occurrence, as their code makes it, from upstream's weights."""
    result: dict[str, float] = {}
    for token, weight in zip(golden.ids(text).tolist(), golden.weights(text).tolist(), strict=True):
        if token not in DROPPED and weight > 0:
            result[str(token)] = max(weight, result.get(str(token), 0.0))
    return result


def test_dense_and_lexical_in_one_call(model: BGEM3FlagModel, golden: Golden):
    """Keys are ids as strings, in order of first occurrence, with the golden weights; dense vectors are the
    golden ones.
    """
    out = model.encode(golden.texts, return_dense=True, return_sparse=True, max_length=8192)
    assert list(out) == ["dense_vecs", "lexical_weights", "colbert_vecs"]
    assert out["colbert_vecs"] is None
    assert np.abs(out["dense_vecs"] - golden.arrays["dense"]).max() <= 5e-6
    for text, found in enumerate(out["lexical_weights"]):
        expected = expected_weights(golden, text)
        assert list(found) == list(expected)
        assert list(found.values()) == pytest.approx(list(expected.values()), abs=2e-5)


def test_what_is_not_asked_for_is_none(model: BGEM3FlagModel, golden: Golden):
    """Dense alone by default; the constructor can say otherwise."""
    assert model.encode(golden.texts[:2])["lexical_weights"] is None
    only = model.encode(golden.texts[:2], return_dense=False, return_sparse=True)
    assert only["dense_vecs"] is None
    assert len(only["lexical_weights"]) == 2


def test_a_string_is_unwrapped(model: BGEM3FlagModel, golden: Golden):
    out = model.encode(golden.texts[0], return_sparse=True)
    assert out["dense_vecs"].shape == (64,)
    assert isinstance(out["lexical_weights"], dict)


def test_texts_are_cut_at_512(model: BGEM3FlagModel):
    """The original's default, not the model's 8192."""
    long = "a " * 600
    vectors = model.encode([long + "x", long + "y"])["dense_vecs"]
    assert np.array_equal(vectors[0], vectors[1])
    vectors = model.encode([long + "x", long + "y"], max_length=8192)["dense_vecs"]
    assert not np.array_equal(vectors[0], vectors[1])


def test_scores(model: BGEM3FlagModel, golden: Golden):
    """Dense is the cosine, sparse the sum over shared ids, and the mean of both is weighted."""
    scores = model.compute_score(golden.pairs, weights_for_different_modes=[0.4, 0.2, 0.0])
    assert list(scores) == ["sparse", "dense", "sparse+dense"]
    for row, (query, passage) in enumerate(golden.pairs):
        q, p = (model.encode(text, return_sparse=True) for text in (query, passage))
        assert scores["dense"][row] == pytest.approx(float(q["dense_vecs"] @ p["dense_vecs"]), abs=1e-6)
        shared = sum(
            w * p["lexical_weights"][t] for t, w in q["lexical_weights"].items() if t in p["lexical_weights"]
        )
        assert scores["sparse"][row] == pytest.approx(shared, rel=1e-6)
        assert scores["sparse+dense"][row] == pytest.approx(
            (0.2 * scores["sparse"][row] + 0.4 * scores["dense"][row]) / 0.6
        )
    assert model.compute_score(golden.pairs[0]) == {
        mode: values[0] for mode, values in model.compute_score(golden.pairs).items()
    }


def test_their_readme_on_lexical_weights(model: BGEM3FlagModel, golden: Golden):
    """convert_id_to_token and compute_lexical_matching_score, alone and in lists."""
    first, second = (golden.pairs[0][0], golden.pairs[0][1])
    weights = model.encode([first, second], return_sparse=True)["lexical_weights"]
    score = model.compute_lexical_matching_score(weights[0], weights[1])
    assert score == pytest.approx(model.compute_score([(first, second)])["sparse"][0])
    matrix = model.compute_lexical_matching_score(weights, weights)
    assert matrix.shape == (2, 2)
    assert matrix[0, 1] == pytest.approx(score)
    assert isinstance(model.convert_id_to_token(weights[0]), dict)
    assert [list(words) for words in model.convert_id_to_token(weights)] == [
        [model.embedder.tokenizer.decode(int(token)) for token in found] for found in weights
    ]
    with pytest.raises(ConfigError, match="two lists"):
        model.compute_lexical_matching_score(weights[0], weights)


def test_instructions(tiny_bundle: Path, golden: Golden):
    """Queries and passages get their own text in front, in the given form."""
    model = BGEM3FlagModel(
        tiny_bundle,
        query_instruction_for_retrieval="Find",
        query_instruction_format="{}: {}",
        passage_instruction_for_retrieval="P ",
    )
    plain = model.encode(["Find: a", "P a", "a"])["dense_vecs"]
    assert np.array_equal(model.encode_queries("a")["dense_vecs"], plain[0])
    assert np.array_equal(model.encode_corpus(["a"])["dense_vecs"][0], plain[1])
    assert np.array_equal(model.encode("a")["dense_vecs"], plain[2])


def test_cut_then_normalised(tiny_bundle: Path, golden: Golden):
    """As the original: truncate_dim first; without normalising, the states themselves."""
    cut = BGEM3FlagModel(tiny_bundle, truncate_dim=32).encode(golden.texts, max_length=8192)["dense_vecs"]
    assert np.abs(cut - golden.arrays["dense_32"]).max() <= 5e-6
    raw = BGEM3FlagModel(tiny_bundle, normalize_embeddings=False).encode(golden.texts, max_length=8192)[
        "dense_vecs"
    ]
    assert np.abs(raw - golden.cls()).max() / np.abs(golden.cls()).max() <= 2e-5


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("encode", {"sentences": ["a"], "return_colbert_vecs": True}, "no multi-vector head"),
        ("encode", {"sentences": ["a"], "batch_size": 0}, "batch_size is 0"),
        ("encode", {"sentences": ["a"], "max_length": 9000}, "max_length is 9000"),
        (
            "compute_score",
            {"sentence_pairs": [("a", "b")], "weights_for_different_modes": [0.4, 0.2, 0.4]},
            "pass 0",
        ),
        (
            "compute_score",
            {"sentence_pairs": [("a", "b")], "weights_for_different_modes": [1, 1]},
            "has 2 numbers",
        ),
        (
            "compute_score",
            {"sentence_pairs": [("a", "b")], "weights_for_different_modes": [0, 0, 0]},
            "add up to 0",
        ),
    ],
)
def test_refused_in_a_call(model: BGEM3FlagModel, method: str, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        getattr(model, method)(**options)


@pytest.mark.parametrize(
    "options", [{"pooling_method": "mean"}, {"devices": ["cuda:0", "cuda:1"]}, {"devices": "npu:0"}]
)
def test_refused_at_construction(tiny_bundle: Path, options: dict[str, Any]):
    with pytest.raises(ConfigError):
        BGEM3FlagModel(tiny_bundle, **options)


def test_a_bad_pair_has_an_index(model: BGEM3FlagModel):
    with pytest.raises(InputError) as caught:
        model.compute_score([("a", "b"), ("a", "b", "c")])  # type: ignore[list-item]
    assert caught.value.index == 1
