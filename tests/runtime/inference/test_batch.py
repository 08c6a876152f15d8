"""The arrays of a batch say where each token goes, and lead back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
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
