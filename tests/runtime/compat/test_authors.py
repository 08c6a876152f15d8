"""The authors' helper script with one import changed."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from golden import Golden

from gte_runtime.compat import GTEEmbeddidng, GTEEmbedding
from gte_runtime.errors import Cancelled, ConfigError


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> GTEEmbedding:
    return GTEEmbeddidng(str(tiny_bundle))


def test_the_models_own_example(model: GTEEmbedding, golden: Golden):
    """The example of the model card runs as it stands and gives the golden numbers."""
    docs = golden.texts[:4]
    embs = model.encode(docs, return_dense=True, return_sparse=True)
    assert np.abs(embs["dense_embeddings"] - golden.arrays["dense"][:4]).max() <= 5e-6
    assert [list(weights) for weights in embs["token_weights"]] == [
        list(weights) for weights in golden.token_weights[:4]
    ]
    hybrid = model.compute_scores(golden.pairs, dense_weight=1.0, sparse_weight=0.3)
    assert isinstance(hybrid, list)
    assert hybrid == pytest.approx(golden.scores["hybrid"], abs=1e-5)


def test_default_scores(model: GTEEmbedding, golden: Golden):
    """Weights default to 1.0 and 0.1."""
    assert model.compute_scores(golden.pairs) == pytest.approx(golden.scores["default"], abs=1e-5)


def test_sparse_alone(model: GTEEmbedding, golden: Golden):
    """`return_dense=False`, on which the original fails, gives the token weights and nothing else."""
    assert list(model.encode(golden.texts[0], return_dense=False, return_sparse=True)) == ["token_weights"]


def test_string_and_dimension(model: GTEEmbedding, golden: Golden):
    """A string is a list of one; dimension cuts before normalising."""
    found = model.encode(golden.texts[0], dimension=32)["dense_embeddings"]
    assert np.abs(found - golden.arrays["dense_32"][:1]).max() <= 5e-6


def test_not_normalised(tiny_bundle: Path, golden: Golden):
    """normalized=False gives the states themselves."""
    found = GTEEmbedding(tiny_bundle, normalized=False).encode(golden.texts)["dense_embeddings"]
    assert np.abs(found - golden.cls()).max() / np.abs(golden.cls()).max() <= 2e-5


def test_scores_truncate_at_1024(model: GTEEmbedding):
    """compute_scores cuts at 1024 tokens, encode at 8192: only one sees a difference after token 1024."""
    long = "a " * 1100
    assert model.compute_scores([(long + "x", long + "y")])[0] == pytest.approx(
        model.compute_scores([(long, long)])[0], abs=1e-6
    )
    vectors = model.encode([long + "x", long + "y"])["dense_embeddings"]
    assert not np.array_equal(vectors[0], vectors[1])


def test_signature_is_the_original_one():
    """Parameters by name, order and default."""
    parameters = inspect.signature(GTEEmbedding.encode).parameters
    assert [(p.name, p.default) for p in parameters.values()][2:] == [
        ("dimension", None), ("max_length", 8192), ("batch_size", 16), ("return_dense", True),
        ("return_sparse", False),
    ]  # fmt: skip
    scores = inspect.signature(GTEEmbedding.compute_scores).parameters
    assert [(p.name, p.default) for p in scores.values()][2:] == [
        ("dimension", None), ("max_length", 1024), ("batch_size", 16), ("dense_weight", 1.0),
        ("sparse_weight", 0.1),
    ]  # fmt: skip


def test_unknown_device(tiny_bundle: Path):
    """A device we cannot run on is refused, not replaced."""
    with pytest.raises(ConfigError, match="mps"):
        GTEEmbedding(tiny_bundle, device="mps")


def test_closes(tiny_bundle: Path):
    """In a `with`; afterwards the engine says that it is closed."""
    with GTEEmbedding(tiny_bundle) as model:
        assert model.encode(["a"])["dense_embeddings"].shape == (1, 64)
    with pytest.raises(Cancelled, match="closed"):
        model.encode(["a"])
