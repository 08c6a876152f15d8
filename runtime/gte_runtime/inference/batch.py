"""Lengths in, batches out, and the way back. Pure: this module knows no tokenizer and no device.

A ragged batch holds the tokens of several texts in one row; only attention ever sees padding, and
only for short texts. Which way a text takes through attention follows from its own length, never
from its neighbours: the two ways differ in the last bit, and a text must get the same bits alone
and in any company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arrays import Int32, Int64


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that run together: their tokens in one row, and where each begins."""

    rows: Int64
    """Positions of the texts in the input, [B]."""
    input_ids: Int64
    """[T]."""
    cu_seqlens: Int32
    """[B + 1], from 0 to T."""
    uniform: bool
    """All texts have one length and take the attention path without mask."""

    @property
    def lengths(self) -> Int32:
        return np.diff(self.cu_seqlens)


def make_batch(rows: Int64, ids: Sequence[Int64], flash_from: int) -> Batch:
    """Concatenate the tokens of a planned group."""
    chosen = [ids[row] for row in rows]
    bounds = np.zeros(len(chosen) + 1, np.int32)
    np.cumsum([len(tokens) for tokens in chosen], out=bounds[1:])
    return Batch(rows, np.concatenate(chosen), bounds, uniform=len(chosen[0]) >= flash_from)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """A batch of several texts as two, of about as many tokens each."""
    middle = int(np.searchsorted(batch.cu_seqlens, len(batch.input_ids) / 2))
    cut = min(max(middle, 1), len(batch.rows) - 1)
    at = int(batch.cu_seqlens[cut])
    return (
        Batch(batch.rows[:cut], batch.input_ids[:at], batch.cu_seqlens[: cut + 1], batch.uniform),
        Batch(batch.rows[cut:], batch.input_ids[at:], batch.cu_seqlens[cut:] - np.int32(at), batch.uniform),
    )


def ragged_inputs(batch: Batch) -> dict[str, NDArray[np.generic]]:
    """The arrays that a ragged graph takes, by name.

    `padded_index` [B, S] says which token stands in each place of the padded attention (0 where
    none does, masked by the lengths); `flat_index` [T] says where each token's row comes back.
    """
    lengths, starts = batch.lengths.astype(np.int64), batch.cu_seqlens[:-1].astype(np.int64)
    longest = int(lengths.max())
    column = np.arange(longest)
    inside = column < lengths[:, None]
    position_ids = np.arange(len(batch.input_ids)) - np.repeat(starts, lengths)
    return {
        "input_ids": batch.input_ids,
        "position_ids": position_ids,
        "cu_seqlens": batch.cu_seqlens,
        "padded_index": np.where(inside, starts[:, None] + column, 0),
        "flat_index": np.flatnonzero(inside),
        "uniform": np.array(batch.uniform),
    }


def packed_inputs(batch: Batch, longest: int | None = None) -> dict[str, NDArray[np.generic]]:
    """The arrays that a packed graph takes, by name.

    `token_offset` [B, S] is the operator's own form: the places of all tokens in a padded [B, S], then
    the places where padding would stand. Only its shape is read where FlashAttention runs. S may be larger
    than the longest text.
    """
    lengths, starts = batch.lengths.astype(np.int64), batch.cu_seqlens[:-1].astype(np.int64)
    inside = np.arange(longest or int(lengths.max())) < lengths[:, None]
    places = np.concatenate((np.flatnonzero(inside), np.flatnonzero(~inside)))
    return {
        "input_ids": batch.input_ids,
        "position_ids": np.arange(len(batch.input_ids)) - np.repeat(starts, lengths),
        "cu_seqlens": batch.cu_seqlens,
        "token_offset": places.astype(np.int32).reshape(inside.shape),
    }


def padded_inputs(batch: Batch, pad_id: int = 0) -> dict[str, NDArray[np.generic]]:
    """The arrays that a padded graph takes: ids and mask [B, S], padding on the right."""
    mask = padding_mask(batch)
    input_ids = np.full(mask.shape, pad_id, np.int64)
    input_ids[mask] = batch.input_ids
    return {"input_ids": input_ids, "attention_mask": mask.astype(np.int64)}


def padding_mask(batch: Batch) -> NDArray[np.bool_]:
    """True where a padded batch holds a token, [B, S]."""
    lengths = batch.lengths
    return np.arange(int(lengths.max())) < lengths[:, None]
