"""Parity with upstream's own outputs, in an environment that needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import Golden

from gte_runtime import Embedder
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.proof.oracle import forward

FLOAT32 = ("cpu-fp32", "portable-fp32")


WEIGHTINGS = {"dense": (1.0, 0.0), "sparse": (0.0, 1.0), "hybrid": (1.0, 0.3), "default": (1.0, 0.1)}


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute error as a share of the largest absolute value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture(params=FLOAT32)
def gte(request: pytest.FixtureRequest, tiny_bundle: Path):
    with Embedder.open(tiny_bundle, variant=request.param) as engine:
        yield engine


def test_states_of_a_batch(gte: Embedder, golden: Golden):
    """CLS states of all texts in one call agree with upstream, text by text."""
    found = gte.states(golden.texts)
    for text, expected in enumerate(golden.cls()):
        assert relative(found[text], expected) <= 2e-5


def test_states_alone(gte: Embedder, golden: Golden):
    """CLS states of each text by itself agree, too."""
    for text, expected in zip(golden.texts, golden.cls(), strict=True):
        assert relative(gte.states(text)[0], expected) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("together", [True, False])
def test_states_of_every_token(gte: Embedder, golden: Golden, together: bool):
    """`token_vectors` gives upstream's states of the first and the last token, and the oracle's of all,
    special ones included.
    """
    calls = [golden.texts] if together else [[text] for text in golden.texts]
    found = [states for call in calls for states in gte.token_vectors(call)]
    with Checkpoint(golden.checkpoint) as checkpoint:
        for text, (states, cls) in enumerate(zip(found, golden.cls(), strict=True)):
            expected = forward(checkpoint, golden.ids(text)).hidden
            assert states.shape == expected.shape
            assert relative(states, expected) <= 2e-5
            assert relative(states[0], cls) <= 2e-5
            assert relative(states[-1], golden.last(text)) <= 2e-5


@pytest.mark.parametrize("together", [True, False])
def test_weights_of_every_token(gte: Embedder, golden: Golden, together: bool):
    """Token weights agree for all tokens, special ones included."""
    calls = [golden.texts] if together else [[text] for text in golden.texts]
    found = [weights for call in calls for weights in gte.steps.run(gte.steps.tokens(call)).token_weights]
    for text, weights in enumerate(found):
        assert relative(weights, golden.weights(text)) <= 2e-5


def test_token_ids(gte: Embedder, golden: Golden):
    """Token ids are those of the reference tokenizer, literal special tokens included."""
    for number, text in enumerate(golden.texts):
        assert [token for token, _ in gte.tokenize(text)] == golden.ids(number).tolist()


def test_token_weights(gte: Embedder, golden: Golden):
    """`token_weights` gives exactly the published keys, in order, with values within 1e-5."""
    for found, expected in zip(gte.token_weights(golden.texts), golden.token_weights, strict=True):
        assert list(found) == list(expected)
        assert list(found.values()) == pytest.approx(list(expected.values()), abs=1e-5)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_scores(gte: Embedder, golden: Golden, name: str):
    """`score` gives the four published weightings, within 1e-5 of the largest score. A sparse score of 6 is a
    sum of products: ONNX Runtime 1.24 and 1.32 differ by 1.1e-5 there in the portable graph."""
    allowed = 1e-5 * max(1.0, max(map(abs, golden.scores[name])))
    assert gte.score(golden.pairs, *WEIGHTINGS[name]) == pytest.approx(golden.scores[name], abs=allowed)


def test_dense(gte: Embedder, golden: Golden):
    """Normalised vectors, whole and cut to 32 values before normalising."""
    assert np.abs(gte.encode(golden.texts).dense - golden.arrays["dense"]).max() <= 5e-6
    assert np.abs(gte.encode(golden.texts, dim=32).dense - golden.arrays["dense_32"]).max() <= 5e-6


def test_half_precision_is_near(tiny_bundle: Path, golden: Golden):
    """`portable-fp16` stays within its published tolerance, on a processor that has no such kernels."""
    with Embedder.open(tiny_bundle, variant="portable-fp16") as engine:
        found = engine.encode(golden.texts)
        assert np.abs(found.dense - golden.arrays["dense"]).max() <= engine.tolerance
        assert (found.dense * golden.arrays["dense"]).sum(axis=1).min() >= 0.9995
