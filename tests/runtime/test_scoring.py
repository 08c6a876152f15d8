"""Cut, then normalise; hybrid scores by their formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.scoring import cut_and_normalise, hybrid, lexical


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
