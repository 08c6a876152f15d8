"""Shapes that packed runs are filled up to: what fits, and that the caller's texts come back untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import Golden
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.building.build import build
from gte_runtime.building.judge import judge
from gte_runtime.device.shapes import CAPTURED_SHAPES, Shape, fill, rounded, smallest
from gte_runtime.errors import ConfigError
from gte_runtime.inference.batch import Batch, make_batch, packed_inputs

LENGTHS = st.lists(st.integers(2, 600), min_size=1, max_size=40)


def batch_of(lengths: list[int]) -> Batch:
    ids = [np.full(length, 2 + row, np.int64) for row, length in enumerate(lengths)]
    return make_batch(np.arange(len(ids)), ids, 128)


@given(LENGTHS)
def test_a_rounded_shape_holds_what_it_was_made_for(lengths: list[int]):
    """It holds the texts, and wastes little: at most 63 tokens up to 2,048 and 255 beyond."""
    bucket = rounded(lengths)
    assert bucket.holds(lengths)
    assert bucket.tokens - sum(lengths) <= (63 if sum(lengths) <= 2048 else 255)


@given(LENGTHS)
def test_shapes_come_again(lengths: list[int]):
    """Tokens in steps, texts in powers of two, longest in blocks of the attention kernel: few shapes."""
    bucket = rounded(lengths)
    assert bucket.tokens % 64 == 0
    assert bucket.texts & (bucket.texts - 1) == 0
    assert bucket.longest % 128 == 0 or bucket.longest == bucket.tokens


@given(LENGTHS)
def test_the_smallest_that_holds(lengths: list[int]):
    """Every other bucket that holds the texts has as many tokens or more; without one, none holds them."""
    found = smallest(CAPTURED_SHAPES, lengths)
    holding = [bucket for bucket in CAPTURED_SHAPES if bucket.holds(lengths)]
    assert (found is None) == (not holding)
    assert found is None or all(found.tokens <= bucket.tokens for bucket in holding)


@given(LENGTHS, st.integers(0, 700), st.integers(0, 5), st.integers(0, 300))
def test_filling_keeps_the_texts(lengths: list[int], more: int, texts: int, longer: int):
    """In any bucket that holds them the texts stand in a row from token 0, and after so many empty ones; the
    shape is exact.
    """
    tokens, longest = sum(lengths) + more, min(max(lengths) + longer, sum(lengths) + more)
    bucket = Shape(tokens, len(lengths) + -(-more // longest) + texts, longest)
    batch = batch_of(lengths)
    filled = fill(batch, bucket)
    bounds, own = filled.batch.cu_seqlens, slice(filled.first, filled.first + len(lengths))
    assert (len(filled.batch.input_ids), len(bounds) - 1) == (bucket.tokens, bucket.texts)
    assert np.array_equal(filled.batch.input_ids[: sum(lengths)], batch.input_ids)
    assert np.diff(bounds)[own].tolist() == lengths
    assert (bounds[0], bounds[-1]) == (0, bucket.tokens)
    assert 0 <= np.diff(bounds).min() <= np.diff(bounds).max() <= bucket.longest
    # The first token of every text exists, also of those that are empty.
    assert bounds[:-1].max() < bucket.tokens
    inputs = packed_inputs(filled.batch, filled.longest)
    assert inputs["token_offset"].shape == (bucket.texts, bucket.longest)
    assert sorted(inputs["token_offset"].ravel().tolist()) == list(range(bucket.texts * bucket.longest))
    assert inputs["position_ids"].max() < bucket.longest


def test_what_does_not_fit_is_not_filled():
    """Neither too many tokens, nor too long a text, nor a filling that finds no place for its texts."""
    for lengths, bucket in (([9], Shape(8, 4, 8)), ([5], Shape(8, 4, 4)), ([1, 1], Shape(8, 2, 8))):
        assert not bucket.holds(lengths)
        with pytest.raises(ValueError, match="does not hold"):
            fill(batch_of(lengths), bucket)


@pytest.mark.parametrize("shape", [(8, 4, 9), (0, 1, 0), (8, 0, 8)])
def test_impossible_buckets(shape: tuple[int, int, int]):
    """A text longer than all tokens, nothing at all, no text."""
    with pytest.raises(ConfigError, match="no shape has"):
        Shape(*shape)


@pytest.mark.slow
def test_filled_runs_give_what_plain_runs_give(golden: Golden, tmp_path: Path):
    """The whole graph, evaluated: one query alone and filled up to every bucket."""
    manifest = build(golden.checkpoint, tmp_path / "bundle", graphs=golden.graphs, variants=("cuda-fp16",))
    session = judge(tmp_path / "bundle", manifest, "cuda-fp16")
    batch = make_batch(np.arange(2), [golden.ids(0)[:7], golden.ids(1)[:5]], 128)
    plain = session.run(batch)
    for bucket in CAPTURED_SHAPES[1:5]:
        filled = fill(batch, bucket)
        out = session.run(filled.batch)
        np.testing.assert_allclose(out.cls[filled.first : filled.first + 2], plain.cls, atol=4e-3)
        np.testing.assert_allclose(out.token_weights[:12], plain.token_weights, atol=4e-3)
