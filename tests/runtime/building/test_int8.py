"""Factors even out what int8 has to hold, leave the product as it is, and do not depend on the last bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.building.int8 import OUTLIERS, READERS, column_factors, factors, has_outliers, outliers

RNG = np.random.default_rng(3)


def relative_error(x: np.ndarray, weight: np.ndarray, f: np.ndarray) -> float:
    """Of x W^T with x rounded per row and W per column, as the graph does it."""
    a, b = x / f, weight.T * f[:, None]
    row, column = np.abs(a).max(1, keepdims=True) / 127, np.abs(b).max(0, keepdims=True) / 127
    found = (np.rint(a / row) @ np.rint(b / column)) * row * column
    exact = x @ weight.T
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def example(outliers: float, consumer: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens with a few large channels, and what those who read them do about it."""
    x, weight = RNG.standard_normal((40, 256)), RNG.standard_normal((64, 256)).astype(np.float32)
    x[:, [3, 77, 200]] *= outliers
    weight[:, [3, 77, 200]] *= consumer
    f = factors(
        "layers.0.mix", {"layers.0.output": np.abs(x).max(0)}, {"layers.0.output.weight": weight}.__getitem__
    )
    return x, weight, f


def test_outliers_that_their_readers_expect():
    """Thirty times larger and read with a thirtieth: without factors the others drown, with them nothing is
    lost.
    """
    x, weight, f = example(30, 1 / 30)
    plain = relative_error(x, weight, np.ones(256))
    assert relative_error(x, weight, f) < 0.012 < 0.05 < plain


def test_outliers_that_are_read_as_any_other():
    """Both sides carry a part of it."""
    x, weight, f = example(30, 1)
    assert relative_error(x, weight, f) < 0.02


def test_ordinary_channels_are_left_about_alone():
    """Factors of noise cost nothing."""
    x, weight, f = example(1, 1)
    assert relative_error(x, weight, f) < 1.1 * relative_error(x, weight, np.ones(256))


@given(st.floats(-1e-12, 1e-12))
def test_the_last_bit_does_not_matter(noise: float):
    """Another BLAS gives other last bits, and the same bundle."""
    seen = np.exp2(np.arange(64) / 7)
    read = {"layers.0.output.weight": np.ones((2, 64), np.float32)}.__getitem__
    first, second = (
        factors("layers.0.mix", {"layers.0.output": values}, read) for values in (seen, seen * (1 + noise))
    )
    assert np.array_equal(first, second)


def test_channels_that_are_never_used():
    """A channel that is always zero, or that nothing reads, has factor 1; so has every channel of nothing."""
    seen, weight = np.ones(8), np.ones((2, 8), np.float32)
    seen[2], weight[:, 5] = 0, 0
    f = factors("layers.0.mix", {"layers.0.output": seen}, {"layers.0.output.weight": weight}.__getitem__)
    assert f[2] == f[5] == 1
    assert (column_factors([np.zeros((3, 4), np.float32)]) == 1).all()


def test_all_readers_count():
    """What the largest weight of any reader asks for."""
    weights = {f"layers.0.{name}.weight": np.ones((2, 2), np.float32) for name in READERS["attention"]}
    weights["layers.0.key.weight"] = np.array([[16, 1], [1, 1]], np.float32)
    f = factors("layers.0.attention", {"layers.0.query": np.ones(2)}, weights.__getitem__)
    assert f[1] / f[0] == 4


def test_columns_of_a_table():
    """Columns of one size have one factor; one that is sixteen times larger has sixteen times that."""
    table = np.ones((5, 4), np.float32)
    table[:, 2] = 16
    assert column_factors([table[:2], table[2:]]).tolist() == [1, 1, 16, 1]


def test_the_largest_channels_are_the_outliers():
    """After the factors of an activation; of a norm, as it gives them. In order of their places."""
    seen = np.linspace(1, 2, 64)
    seen[[50, 7, 33]] = [90, 300, 60]
    divided = np.ones(64)
    divided[7] = 300
    largest = {"layers.2.gate": seen, "layers.2.mlp_norm": seen}
    of_norm, of_activation = (
        outliers(place, largest, lambda _: divided) for place in ("layers.2.mlp_norm", "layers.2.mlp")
    )
    assert len(of_norm) == len(of_activation) == OUTLIERS
    assert {7, 33, 50} <= set(of_norm.tolist())
    assert {33, 50} <= set(of_activation.tolist())
    assert 7 not in of_activation
    assert (np.diff(of_norm) > 0).all()


@given(st.integers(0, 2**32 - 1))
def test_outliers_do_not_depend_on_the_last_bit(seed: int):
    """Nearly equal channels are taken by their places."""
    rng = np.random.default_rng(seed)
    seen = np.exp2(rng.integers(0, 4, 64))
    noisy = seen * (1 + rng.uniform(-1e-12, 1e-12, 64))
    first, second = (
        outliers("n.attention_norm", {"n.attention_norm": values}, lambda _: np.ones(1))
        for values in (seen, noisy)
    )
    assert np.array_equal(first, second)


def test_whether_there_are_outliers():
    """In what norms give and attention mixes; what the gate multiplies has long tails in every model."""
    even, odd = np.ones(64), np.r_[np.ones(63), 9.0]
    assert not has_outliers(
        {
            "layers.0.attention_norm": even,
            "layers.0.output": even,
            "layers.0.down": odd,
            "layers.0.query": odd,
        }
    )
    for name in ("embeddings.norm", "layers.0.mlp_norm", "layers.0.output"):
        assert has_outliers({"layers.0.attention_norm": even, name: odd})
