"""Cut, then normalise; hybrid scores by their formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.errors import ConfigError
from gte_runtime.scoring import (
    SMALLEST_NORM,
    check_weight,
    cut_and_normalise,
    hybrid,
    hybrid_of_pairs,
    lexical,
    sigmoid,
)


@given(st.integers(1, 8))
def test_cut_comes_first(dim: int):
    """A cut vector is a unit vector; normalising before the cut would leave it shorter."""
    states = np.random.default_rng(dim).standard_normal((5, 8)).astype(np.float32)
    found = cut_and_normalise(states, dim)
    assert found.shape == (5, dim)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.allclose(
        found, states[:, :dim] / np.linalg.norm(states[:, :dim], axis=1, keepdims=True), atol=1e-6
    )


def test_zero_stays_zero():
    """A zero vector has no direction, and becomes no NaN either."""
    assert not cut_and_normalise(np.zeros((1, 4), np.float32)).any()


def test_rows_do_not_touch_each_other():
    """A row's bits are the same alone and among others, however long they are."""
    states = np.random.default_rng(0).standard_normal((64, 768)).astype(np.float32)
    whole = cut_and_normalise(states)
    assert all(np.array_equal(cut_and_normalise(states[n : n + 1])[0], whole[n]) for n in range(64))


def test_lexical():
    """Only shared tokens count."""
    assert lexical({"a": 2.0, "b": 3.0}, {"b": 0.5, "c": 9.0}) == pytest.approx(1.5)


def test_hybrid():
    """The weighted sum, as published."""
    assert hybrid(0.5, 2.0, 1.0, 0.3) == pytest.approx(1.1)


def test_whole_vectors_are_normalised_by_default():
    """Without a length nothing is cut; the result is float32, also where squares would overflow."""
    found = cut_and_normalise(np.array([[3, 0, 4], [3e30, 0, 4e30], [3e-30, 0, 0]], np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:2], [[0.6, 0, 0.8]] * 2, rtol=1e-6)
    assert found[2].tolist() == pytest.approx([3e-30 / SMALLEST_NORM, 0, 0])


def test_norms_from_the_smallest_on():
    """A norm of exactly 1e-12 is its own; half of it counts as that: the bound of torch's normalize."""
    found = cut_and_normalise(np.array([[1e-12, 0], [5e-13, 0], [2e-12, 0]], np.float32))
    assert found[:, 0].tolist() == pytest.approx([1.0, 0.5, 1.0])


def test_lexical_of_nothing_shared():
    """No shared token, no score; the order of the two texts does not matter."""
    assert lexical({"a": 2.0}, {"b": 3.0}) == lexical({}, {"b": 3.0}) == lexical({"a": 2.0}, {}) == 0
    assert lexical({"a": 2.0, "b": 1.0}, {"b": 3.0, "a": 0.5}) == lexical(
        {"b": 3.0, "a": 0.5}, {"a": 2.0, "b": 1.0}
    )


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6),
    st.sampled_from([0.0, 1.0, -0.5]),
    st.sampled_from([0.0, 0.3, -2.0]),
)
def test_hybrid_of_pairs(pairs: list[tuple[int, int]], dense_weight: float, sparse_weight: float):
    """Row n is the formula of pair n; what has the weight 0 is not read at all."""
    vectors = cut_and_normalise(np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32))
    weights = [{"a": 1.0, "b": 2.0}, {"b": 0.5}, {}, {"a": 3.0, "c": 1.0}]
    found = hybrid_of_pairs(
        pairs,
        vectors if dense_weight else np.zeros((0, 8), np.float32),
        weights if sparse_weight else [],
        dense_weight,
        sparse_weight,
    )
    assert (found.dtype, found.shape) == (np.float64, (len(pairs),))
    for score, (query, document) in zip(found.tolist(), pairs, strict=True):
        cosine, shared = float(vectors[query] @ vectors[document]), lexical(weights[query], weights[document])
        assert score == pytest.approx(dense_weight * cosine + sparse_weight * shared)


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=9))
def test_sigmoid(logits: list[float]):
    """The formula in float64, on both sides of 0 and at its ends, without a warning of an overflow."""
    values = np.array(logits, np.float32)
    found = sigmoid(values)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-values.astype(np.float64)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-44)


def test_sigmoid_is_rounded_once():
    """The nearest float32, near 0 and far from it: it is computed in float64."""
    values = np.concatenate((np.linspace(-30, 30, 601), np.linspace(-2, 2, 401))).astype(np.float32)
    expected = 1 / (1 + np.exp(-values.astype(np.float64)))
    np.testing.assert_allclose(sigmoid(values), expected, rtol=2**-24)


def test_sigmoid_by_example():
    """Half at 0, and as far above it as below it."""
    found = sigmoid(np.array([0.0, 2.0, -2.0, 1e4, -1e4, np.inf, -np.inf], np.float32))
    assert found.tolist() == pytest.approx([0.5, 0.8807970780, 0.1192029220, 1.0, 0.0, 1.0, 0.0])
    assert 0 < sigmoid(np.array([-90.0], np.float32))[0] < 1e-38


@pytest.mark.parametrize("value", [0, -3, 0.25, np.float32(0.25), np.float64(1e300)])
def test_weights_that_are_numbers(value: float):
    """Also negative ones and 0; what comes back is Python's float."""
    assert check_weight(value, "dense_weight") == value
    assert type(check_weight(value, "dense_weight")) is float


@pytest.mark.parametrize("value", [True, False, np.nan, np.inf, -np.inf, np.float32("nan"), "1", None, [1.0]])
def test_weights_that_are_none(value: object):
    """Booleans, strings and what is not finite are refused by the name of the argument."""
    with pytest.raises(ConfigError, match=r"^sparse_weight is .*; expected a finite number$"):
        check_weight(value, "sparse_weight")
