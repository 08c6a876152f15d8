"""The masked-language-model head gives what its formula says, however it is cut into blocks."""

from __future__ import annotations

from math import erf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.inference import expansion
from gte_runtime.inference.expansion import MlmHead, activated, gelu, static_vector

WIDTH, VOCABULARY = 16, 75
RNG = np.random.default_rng(11)


def drawn(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def head(activation: str = "relu") -> MlmHead:
    return MlmHead(
        drawn(WIDTH, WIDTH), drawn(WIDTH), drawn(WIDTH), drawn(WIDTH), drawn(VOCABULARY, WIDTH),
        drawn(VOCABULARY), 1e-12, activation,
    )  # fmt: skip


def slowly(one: MlmHead, states: np.ndarray) -> np.ndarray:
    """The weight of every entry, token by token, in float64."""
    found = np.zeros(VOCABULARY)
    for state in states.astype(np.float64):
        x = one.weight.astype(np.float64) @ state + one.bias
        x = np.array([0.5 * v * (1 + erf(v / np.sqrt(2))) for v in x])
        x = (x - x.mean()) / np.sqrt(x.var() + one.eps) * one.norm_weight + one.norm_bias
        logits = one.decoder.astype(np.float64) @ x + one.decoder_bias
        weights = np.log1p(np.maximum(logits, 0))
        found = np.maximum(found, np.log1p(weights) if one.activation == "log1p_relu" else weights)
    return found


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@given(count=st.integers(1, 40), seed=st.integers(0, 99))
def test_as_the_formula_says(activation: str, count: int, seed: int):
    one = head(activation)
    states = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    ids, weights = one(states)
    dense = np.zeros(VOCABULARY)
    dense[ids] = weights
    np.testing.assert_allclose(dense, slowly(one, states), atol=2e-5)
    assert (np.diff(ids) > 0).all()
    assert (weights > 0).all()
    assert weights.dtype == np.float32


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    """But the last bits of products; also where neither the tokens nor the vocabulary fill the last block."""
    one, states = head(), drawn(33, WIDTH)
    whole = one(states)
    monkeypatch.setattr(expansion, "TOKENS", 8)
    monkeypatch.setattr(expansion, "ENTRIES", 20)
    blocks = one(states)
    np.testing.assert_array_equal(whole.ids, blocks.ids)
    np.testing.assert_allclose(whole.weights, blocks.weights, rtol=1e-5, atol=1e-6)


def test_nan_is_not_dropped():
    """It is given on, so that the engine refuses the text."""
    states = drawn(3, WIDTH)
    states[1, 2] = np.nan
    assert np.isnan(head()(states).weights).any()


@given(st.floats(-30, 30))
def test_gelu(x: float):
    """In its exact form, to 2e-7 of the argument."""
    assert gelu(np.array([x]))[0] == pytest.approx(
        0.5 * x * (1 + erf(x / np.sqrt(2))), abs=2e-7 * max(1, abs(x))
    )


def test_activations():
    x = np.array([-1, 0, 1, 8], np.float32)
    np.testing.assert_allclose(activated(x, "relu"), [0, 0, np.log(2), np.log(9)], rtol=1e-6)
    np.testing.assert_allclose(
        activated(x, "log1p_relu"), [0, 0, np.log(1 + np.log(2)), np.log(1 + np.log(9))], rtol=1e-6
    )


def test_a_query_by_its_table():
    """A token counts once, however often it occurs; one of weight 0 not at all."""
    weights = np.array([0, 1, 2, 3], np.float32)
    found = static_vector(np.array([3, 1, 3, 0]), weights)
    assert found.ids.tolist() == [1, 3]
    assert found.weights.tolist() == [1, 3]
