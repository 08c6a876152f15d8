"""The arrays of a batch say where each token goes, and lead back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gte_runtime.inference.batch import (
    Batch,
    halves,
    make_batch,
    packed_inputs,
    padded_inputs,
    padding_mask,
    ragged_inputs,
)

lengths = st.lists(st.integers(2, 300), max_size=60)


FLASH = 64


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_index_arrays_lead_there_and_back(lengths: list[int]):
    """Gathering by padded_index and flattening by flat_index gives every token back in its place."""
    ids = [np.arange(100 * n, 100 * n + length) for n, length in enumerate(lengths)]
    inputs = ragged_inputs(make_batch(np.arange(len(ids)), ids, FLASH))
    tokens = inputs["input_ids"]
    padded = tokens[inputs["padded_index"]]
    assert np.array_equal(padded.ravel()[inputs["flat_index"]], tokens)
    assert [row[:length].tolist() for row, length in zip(padded, lengths, strict=True)] == [
        i.tolist() for i in ids
    ]
    assert inputs["position_ids"].tolist() == [p for length in lengths for p in range(length)]
    assert np.diff(inputs["cu_seqlens"]).tolist() == lengths


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_padded_arrays(lengths: list[int]):
    """Masked places hold the padding id, the others the tokens in order."""
    ids = [np.arange(100 * n + 1, 100 * n + 1 + length) for n, length in enumerate(lengths)]
    batch = make_batch(np.arange(len(ids)), ids, FLASH)
    inputs = padded_inputs(batch, pad_id=7)
    mask = inputs["attention_mask"].astype(bool)
    assert np.array_equal(mask, padding_mask(batch))
    assert np.array_equal(inputs["input_ids"][mask], batch.input_ids)
    assert (inputs["input_ids"][~mask] == 7).all()


LENGTHS = st.lists(st.integers(2, 600), min_size=1, max_size=40)


def batch_of(lengths: list[int]) -> Batch:
    ids = [np.full(length, 2 + row, np.int64) for row, length in enumerate(lengths)]
    return make_batch(np.arange(len(ids)), ids, 128)


@given(LENGTHS)
def test_token_offset_says_where_a_padded_batch_has_its_tokens(lengths: list[int]):
    """The operator's own words: offset of each token before packing, then those of padding."""
    batch = batch_of(lengths)
    inputs = packed_inputs(batch)
    texts, longest = inputs["token_offset"].shape
    offsets = inputs["token_offset"].ravel()[: sum(lengths)]
    assert (texts, longest) == (len(lengths), max(lengths))
    expected = [row * longest + column for row, length in enumerate(lengths) for column in range(length)]
    assert offsets.tolist() == expected


@given(LENGTHS.filter(lambda lengths: len(lengths) > 1))
def test_halves_are_the_whole(lengths: list[int]):
    """Two batches of texts that follow one another, neither empty, each starting at 0."""
    batch = batch_of(lengths)
    first, second = halves(batch)
    assert np.array_equal(np.concatenate((first.input_ids, second.input_ids)), batch.input_ids)
    assert [*first.lengths.tolist(), *second.lengths.tolist()] == lengths
    assert np.array_equal(np.concatenate((first.rows, second.rows)), batch.rows)
    assert len(first.rows) >= 1 <= len(second.rows)
    assert first.cu_seqlens[0] == second.cu_seqlens[0] == 0


@given(LENGTHS)
def test_the_last_offsets_are_those_of_padding(lengths: list[int]):
    """Every place of the padded batch is there once, int32, those of padding in order after the tokens."""
    offsets = packed_inputs(batch_of(lengths))["token_offset"]
    longest = max(lengths)
    padding = [row * longest + column for row, n in enumerate(lengths) for column in range(n, longest)]
    assert offsets.dtype == np.int32
    assert offsets.ravel()[sum(lengths) :].tolist() == padding


@pytest.mark.parametrize("longest", [3, 4, 9])
def test_packed_arrays_may_be_longer_than_their_texts(longest: int):
    """With a shape that is given, everything but `token_offset` stays as it is."""
    batch = batch_of([3, 2])
    inputs, own = packed_inputs(batch, longest), packed_inputs(batch)
    assert inputs["token_offset"].shape == (2, longest)
    assert inputs["token_offset"].ravel()[:5].tolist() == [0, 1, 2, longest, longest + 1]
    assert inputs["position_ids"].tolist() == [0, 1, 2, 0, 1]
    assert all(np.array_equal(inputs[name], own[name]) for name in own if name != "token_offset")
    assert inputs["input_ids"] is batch.input_ids
    assert inputs["cu_seqlens"] is batch.cu_seqlens


def test_arrays_have_the_types_of_the_graphs():
    """By example, for all three kinds of graph: names, types, and 0 where padding points to no token."""
    batch = make_batch(np.array([4, 9]), [np.arange(10 * n, 10 * n + n) for n in range(10)], 5)
    ragged, packed, padded = ragged_inputs(batch), packed_inputs(batch), padded_inputs(batch)
    assert ragged["padded_index"].tolist() == [[0, 1, 2, 3, 0, 0, 0, 0, 0], [4, 5, 6, 7, 8, 9, 10, 11, 12]]
    assert ragged["flat_index"].tolist() == [0, 1, 2, 3, *range(9, 18)]
    assert ragged["position_ids"].tolist() == packed["position_ids"].tolist() == [*range(4), *range(9)]
    assert padded["input_ids"].tolist() == [[40, 41, 42, 43, 0, 0, 0, 0, 0], [*range(90, 99)]]
    assert padded["attention_mask"].tolist() == [[1] * 4 + [0] * 5, [1] * 9]
    assert ragged["uniform"].dtype == np.bool_
    assert ragged["uniform"].shape == ()
    for inputs in (ragged, packed):
        assert inputs["cu_seqlens"].dtype == np.int32
    for inputs, names in (
        (ragged, ("input_ids", "position_ids", "padded_index", "flat_index")),
        (packed, ("input_ids", "position_ids")),
        (padded, ("input_ids", "attention_mask")),
    ):
        assert {inputs[name].dtype for name in names} == {np.dtype(np.int64)}
    assert packed.keys() == {"input_ids", "position_ids", "cu_seqlens", "token_offset"}


@pytest.mark.parametrize(("length", "uniform"), [(4, False), (5, True), (6, True)])
def test_the_path_changes_at_flash_from(length: int, uniform: bool):
    """A text of exactly `flash_from` tokens takes the path without a mask; the graph is told."""
    batch = make_batch(np.array([1]), [np.arange(9), np.arange(length)], 5)
    assert batch.uniform is uniform
    assert ragged_inputs(batch)["uniform"] == uniform
    assert (batch.rows.tolist(), batch.lengths.tolist()) == ([1], [length])


@given(LENGTHS.filter(lambda lengths: len(lengths) > 1))
@example([9, 2, 2])
@example([2, 2, 2, 9])
@example([3, 2, 5])
@example([3, 2, 6])
def test_halves_are_cut_at_half_of_the_tokens(lengths: list[int]):
    """Against the slow way: texts go to the first half until it has half of the tokens; not the last one."""
    cut = 1
    while cut < len(lengths) - 1 and 2 * sum(lengths[:cut]) < sum(lengths):
        cut += 1
    first, second = halves(batch_of(lengths))
    assert first.lengths.tolist() == lengths[:cut]
    assert second.lengths.tolist() == lengths[cut:]
    assert first.cu_seqlens.dtype == second.cu_seqlens.dtype == np.int32


@pytest.mark.parametrize("length", [100, 128])
def test_halves_take_the_path_of_the_whole(length: int):
    """Which path through attention a text takes does not change when its batch is halved."""
    batch = batch_of([length] * 4)
    assert [half.uniform for half in halves(batch)] == [batch.uniform] * 2 == [length == 128] * 2


def test_halves_of_texts_without_tokens():
    """A tokenizer without special tokens gives an empty text none; halving ends with them too."""
    first, second = halves(batch_of([0, 0, 0]))
    assert (len(first.rows), len(second.rows)) == (1, 2)
