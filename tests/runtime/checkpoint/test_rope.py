"""RoPE's frequencies against the numbers that were read out of upstream's code."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.checkpoint.config import read_config
from gte_runtime.checkpoint.rope import Rope

ROOT = Path(__file__).parents[3]
BASE = Rope.ntk(head_size=64, theta=20000.0, factor=8.0)
"""The model's own: `rope_theta` 20000, `rope_scaling` ntk with factor 8."""


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(
        (ROOT / "tests" / "data" / "inv_freq.json").read_text(encoding="utf-8")
    )
    return value


def ulps(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How many float32 values lie between two positive numbers."""
    return np.abs(
        found.astype(np.float32).view(np.int32).astype(np.int64) - expected.astype(np.float32).view(np.int32)
    )


def test_frequencies_are_upstreams(published: dict[str, Any]):
    """Each frequency is the published one, up to 2 units in the last place."""
    expected = np.array(
        [struct.unpack(">f", bytes.fromhex(word))[0] for word in published["hex"]], np.float32
    )
    np.testing.assert_array_equal(expected, np.array(published["float32"], np.float32))
    found = BASE.frequencies()
    assert found.dtype == np.float32
    assert found.shape == (32,)
    assert ulps(found, expected).max() <= 2


def test_frequencies_are_those_of_the_formula(published: dict[str, Any]):
    """In real numbers: (theta factor)^(-2i/d) / factor^(2/d)."""
    exact = [(20000 * 8) ** (-2 * i / 64) / 8 ** (2 / 64) for i in range(32)]
    np.testing.assert_allclose(exact, published["float64"], rtol=1e-12)
    np.testing.assert_allclose(BASE.frequencies(), exact, rtol=5e-7)


def test_the_base_models_config_gives_them():
    """The config that ships with the graphs of the base model is read as this rope."""
    assert read_config(ROOT / "models" / "gte-multilingual-base").rope == BASE


@pytest.mark.parametrize(
    "other",
    [
        Rope(head_size=64, theta=20000.0),
        Rope(head_size=64, theta=160000.0),
        Rope(head_size=64, theta=20000.0, divisor=8.0),
        Rope(head_size=64, theta=20000.0 * 8 ** (64 / 62)),
        Rope(head_size=64, theta=10000.0),
        Rope.ntk(head_size=64, theta=20000.0, factor=8.0, mixed_b=2.0),
        Rope.ntk(head_size=64, theta=20000.0, factor=4.0),
    ],
    ids=[
        "plain theta",
        "theta times factor",
        "linear",
        "classic ntk",
        "default theta",
        "mixed",
        "other factor",
    ],
)
def test_other_readings_of_the_config_are_told_apart(published: dict[str, Any], other: Rope):
    """The ways in which ports of this model go wrong: none comes near the published numbers."""
    apart = np.abs(other.frequencies() / np.array(published["float32"], np.float32) - 1)
    assert apart.max() > 0.03


def test_no_theta_alone_gives_them(published: dict[str, Any]):
    """The first frequency is not 1, and every form with a theta alone begins with 1."""
    assert published["float32"][0] == pytest.approx(8 ** (-2 / 64))
    for theta in (20000.0, 160000.0, 171110.0):
        assert Rope(head_size=64, theta=theta).frequencies()[0] == 1


def test_the_mixed_form():
    """`mixed_b` divides by exp(a i^b) with a chosen so that the last pair is divided by the factor; theta
    stays.
    """
    rope = Rope.ntk(head_size=32, theta=500.0, factor=4.0, mixed_b=0.75)
    ordinal = np.arange(1, 17)
    a = np.log(4.0) / 16**0.75
    exact = 500.0 ** (-2 * np.arange(16) / 32) / np.exp(a * ordinal**0.75)
    np.testing.assert_allclose(rope.frequencies(), exact, rtol=1e-6)
    plain = Rope(head_size=32, theta=500.0).frequencies()
    assert plain[-1] / rope.frequencies()[-1] == pytest.approx(4.0, rel=1e-6)


def test_the_mixed_form_with_exponent_one_is_the_plain_one():
    """theta^(-2i/d) / exp(a (i+1)) is (theta factor)^(-2i/d) / factor^(2/d): two spellings of the same
    frequencies.
    """
    mixed = Rope.ntk(head_size=64, theta=20000.0, factor=8.0, mixed_b=1.0)
    np.testing.assert_allclose(mixed.frequencies(), BASE.frequencies(), rtol=1e-6)


def test_linear_scaling_divides_all():
    """Each frequency divided by the factor."""
    np.testing.assert_allclose(
        Rope(head_size=16, theta=1e4, divisor=2.5).frequencies() * 2.5,
        Rope(head_size=16, theta=1e4).frequencies(),
        rtol=3e-7,
    )


@given(
    half=st.integers(1, 64),
    theta=st.floats(1.5, 1e7),
    factor=st.floats(1, 64),
    mixed_b=st.none() | st.floats(0.1, 3),
)
def test_frequencies_fall(half: int, theta: float, factor: float, mixed_b: float | None):
    """One per pair, positive, falling, at most 1."""
    found = Rope.ntk(head_size=2 * half, theta=theta, factor=factor, mixed_b=mixed_b).frequencies()
    assert found.shape == (half,)
    assert found.dtype == np.float32
    assert (found > 0).all()
    assert (np.diff(found) <= 0).all()
    assert found[0] <= 1


def test_tables():
    """cos and sin of position times frequency, the product in float32 as upstream has it."""
    cos, sin = BASE.tables(8192)
    assert cos.shape == sin.shape == (8192, 32)
    assert cos.dtype == sin.dtype == np.float32
    for position in (0, 1, 63, 4096, 8191):
        angle = (np.float32(position) * BASE.frequencies()).astype(np.float64)
        np.testing.assert_array_equal(cos[position], np.cos(angle).astype(np.float32))
        np.testing.assert_array_equal(sin[position], np.sin(angle).astype(np.float32))
    np.testing.assert_allclose(cos**2 + sin**2, 1, atol=3e-7)


def test_tables_do_not_depend_on_their_length():
    """The frequencies hold for every length of text, so a shorter table is the beginning of a longer one."""
    short, long = BASE.tables(10), BASE.tables(1000)
    np.testing.assert_array_equal(short[0], long[0][:10])
    np.testing.assert_array_equal(short[1], long[1][:10])


def test_a_float64_angle_would_be_another():
    """At the last positions a product in float64 gives other values: why the product is made as upstream
    makes it.
    """
    cos, _ = BASE.tables(8192)
    exact = np.cos(8191.0 * np.array([(160000.0) ** (-2 * i / 64) / 8 ** (2 / 64) for i in range(32)]))
    assert np.abs(cos[8191] - exact).max() > 1e-5
