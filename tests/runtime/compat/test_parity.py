"""Numbers of the real packages on the golden checkpoint; data/compat/make_expected.py ran them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import Golden
from numpy.typing import NDArray

from gte_runtime.compat import BGEM3FlagModel, CrossEncoder, SentenceTransformer

DATA = Path(__file__).parents[2] / "data" / "compat"
LIMIT = 1e-5

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def expected() -> Arrays:
    with np.load(DATA / "expected.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bundle), prompts={"query": "query: ", "passage": "passage: "})


@pytest.fixture(scope="module")
def flag(tiny_bundle: Path) -> BGEM3FlagModel:
    return BGEM3FlagModel(str(tiny_bundle), use_fp16=False, query_instruction_for_retrieval="query: ")


def test_sentence_transformers_vectors(model: SentenceTransformer, expected: Arrays, golden: Golden):
    """Whole, cut, cut and normalised, with prompts by method and name, and one string alone."""
    texts = golden.texts
    ours = {
        "whole": model.encode(texts),
        "cut": model.encode(texts, truncate_dim=32),
        "cut_normalised": model.encode(texts, truncate_dim=32, normalize_embeddings=True),
        "query": model.encode_query(texts),
        "document": model.encode_document(texts),
        "passage": model.encode(texts, prompt_name="passage"),
        "single": model.encode(texts[0]),
    }
    for name, found in ours.items():
        theirs = expected[f"st.{name}"]
        assert found.shape == theirs.shape
        assert found.dtype == theirs.dtype
        assert np.abs(found - theirs).max() <= LIMIT, name


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_sentence_transformers_similarities(model: SentenceTransformer, expected: Arrays, name: str):
    """From their own vectors, so that only the similarity is compared."""
    a, b = expected["st.whole"], expected["st.query"]
    model.similarity_fn_name = name
    matrix, row = model.similarity(a, b), model.similarity_pairwise(a, b)
    model.similarity_fn_name = "cosine"
    assert matrix.shape == expected[f"st.similarity.{name}"].shape
    np.testing.assert_allclose(matrix, expected[f"st.similarity.{name}"], rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(row, expected[f"st.pairwise.{name}"], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
@pytest.mark.filterwarnings("ignore:precision=:UserWarning")
def test_sentence_transformers_precisions(
    model: SentenceTransformer, expected: Arrays, golden: Golden, precision: str
):
    """The same bytes, but for values on the border of two steps."""
    found, theirs = model.encode(golden.texts, precision=precision), expected[f"st.{precision}"]
    assert found.dtype == theirs.dtype
    if precision.endswith("int8"):
        steps = found.astype(int) - theirs.astype(int)
        assert np.abs(steps).max() <= 1
        assert (steps != 0).mean() <= 0.01
    else:
        assert np.array_equal(found, theirs)


def test_flag_embedding(flag: BGEM3FlagModel, expected: Arrays, kept: dict[str, Any], golden: Golden):
    """Vectors and weights within 1e-5, keys the same and in the same order, words the same."""
    out = flag.encode(golden.texts, return_dense=True, return_sparse=True)
    assert out["dense_vecs"].dtype == expected["flag.dense"].dtype
    assert np.abs(out["dense_vecs"] - expected["flag.dense"]).max() <= LIMIT
    assert np.abs(flag.encode_queries(golden.texts)["dense_vecs"] - expected["flag.queries"]).max() <= LIMIT
    largest = max(weight for weights in kept["lexical_weights"] for weight in weights.values())
    for found, theirs in zip(out["lexical_weights"], kept["lexical_weights"], strict=True):
        assert list(found) == list(theirs)
        assert list(found.values()) == pytest.approx(list(theirs.values()), abs=LIMIT * largest)
    assert [list(words) for words in flag.convert_id_to_token(out["lexical_weights"])] == [
        list(words) for words in kept["words"]
    ]
    assert flag.compute_lexical_matching_score(*out["lexical_weights"][:2]) == pytest.approx(
        kept["matching"], rel=1e-5
    )


def test_flag_embedding_scores(flag: BGEM3FlagModel, kept: dict[str, Any], golden: Golden):
    """Dense, sparse and their weighted mean."""
    scores = flag.compute_score(golden.pairs, weights_for_different_modes=[0.4, 0.2, 0.0])
    assert scores.keys() == kept["scores"].keys()
    for mode, found in scores.items():
        assert found == pytest.approx(kept["scores"][mode], rel=1e-5, abs=1e-5)


@pytest.fixture(scope="module")
def cross(reranker_bundle: Path) -> CrossEncoder:
    return CrossEncoder(str(reranker_bundle))


def raw(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model's own numbers: no activation."""
    return logits


def test_cross_encoder_scores(cross: CrossEncoder, expected: Arrays, golden: Golden):
    """With the logistic function by default, without any, cut at 20 tokens, and of one pair alone."""
    pairs = [*golden.pairs, *itertools.pairwise(golden.texts)]
    for found, name in (
        (cross.predict(pairs), "default"),
        (cross.predict(pairs, activation_fn=raw), "logits"),
    ):
        assert found.dtype == expected[f"cross.{name}"].dtype
        assert np.abs(found - expected[f"cross.{name}"]).max() <= 2e-5, name
    assert abs(cross.predict(pairs[0]) - expected["cross.single"]) <= 2e-5
    assert np.ndim(cross.predict(pairs[0])) == expected["cross.single"].ndim == 0
    cross.max_seq_length = 20
    cut = cross.predict([(query * 9, document * 2) for query, document in pairs], activation_fn=raw)
    cross.max_seq_length = 8192
    assert np.abs(cut - expected["cross.cut"]).max() <= 2e-5


def test_cross_encoder_rank(cross: CrossEncoder, expected: Arrays, golden: Golden):
    """The same order, the same keys, the best three."""
    pairs = [*golden.pairs, *itertools.pairwise(golden.texts)]
    documents = [document for _, document in pairs]
    ranked = cross.rank(pairs[0][0], documents, top_k=3, return_documents=True)
    assert [row["corpus_id"] for row in ranked] == expected["cross.rank.ids"].tolist()
    assert [row["score"] for row in ranked] == pytest.approx(expected["cross.rank.scores"].tolist(), abs=2e-5)
    assert [list(row) for row in ranked] == [["corpus_id", "score", "text"]] * 3
    assert [row["text"] for row in ranked] == [documents[row["corpus_id"]] for row in ranked]
