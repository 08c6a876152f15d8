"""Batches of token ids, and the arrays that graphs take. Pure: this module knows no tokenizer and no device.

A batch holds the tokens of several texts in one row, without padding. A ragged graph pads inside attention
only, and only for short texts; a packed graph has no padding; a padded graph takes padded arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arrays import Int32, Int64


@dataclass(frozen=True, slots=True)
class Batch:
    """B texts that run together, T tokens in all."""

    rows: Int64
    """Positions of the texts in the input, [B]."""
    input_ids: Int64
    """Token ids of all texts in a row, [T]."""
    cu_seqlens: Int32
    """Where each text begins in `input_ids`, and at last T: [B + 1]."""
    uniform: bool
    """All texts have the same length and take the path through attention without a mask."""

    @property
    def lengths(self) -> Int32:
        """Tokens of each text, [B]."""
        return np.diff(self.cu_seqlens)


def make_batch(rows: Int64, ids: Sequence[Int64], flash_from: int) -> Batch:
    """The batch of a planned group.

    Args:
        rows: positions of its texts in `ids`.
        ids: token ids of each text, [n].
        flash_from: the variant's; texts of at least so many tokens run with texts of equal length only.
    """
    chosen = [ids[row] for row in rows]
    bounds = np.zeros(len(chosen) + 1, np.int32)
    np.cumsum([len(tokens) for tokens in chosen], out=bounds[1:])
    return Batch(rows, np.concatenate(chosen), bounds, uniform=len(chosen[0]) >= flash_from)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """A batch of several texts as two, with about the same number of tokens each."""
    middle = int(np.searchsorted(batch.cu_seqlens, len(batch.input_ids) / 2))
    cut = min(max(middle, 1), len(batch.rows) - 1)
    at = int(batch.cu_seqlens[cut])
    return (
        Batch(batch.rows[:cut], batch.input_ids[:at], batch.cu_seqlens[: cut + 1], batch.uniform),
        Batch(batch.rows[cut:], batch.input_ids[at:], batch.cu_seqlens[cut:] - np.int32(at), batch.uniform),
    )


def ragged_inputs(batch: Batch) -> dict[str, NDArray[np.generic]]:
    """The inputs of a ragged graph, by name.

    `padded_index` [B, S] is, for each place in padded attention, the token that belongs there, and 0 for
    padding. `flat_index` [T] is, for each token, its place in the flattened [B, S].
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
    """The inputs of a packed graph, by name.

    `token_offset` [B, S] is as ONNX Runtime documents it for PackedMultiHeadAttention: the places of all
    tokens in a flattened, padded [B, S], then the places of padding. FlashAttention reads only its shape. S
    is `longest`, by default the length of the longest text; it may be larger.
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
    """The inputs of a padded graph, by name: ids and mask, [B, S], padded on the right."""
    mask = padding_mask(batch)
    input_ids = np.full(mask.shape, pad_id, np.int64)
    input_ids[mask] = batch.input_ids
    return {"input_ids": input_ids, "attention_mask": mask.astype(np.int64)}


def padding_mask(batch: Batch) -> NDArray[np.bool_]:
    """Where a padded batch has a token, [B, S]: True for tokens, False for padding."""
    lengths = batch.lengths
    return np.arange(int(lengths.max())) < lengths[:, None]
