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

from .errors import ConfigError

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one run may take. Bounds memory and, through cache sizes, speed; never results."""

    max_tokens: int = 8192
    """Tokens of one run, padding included where there is any. One text may be longer by itself."""
    max_scores: int = 4 * 2**20
    """Attention scores held at a time, per head: B x S^2. 4 Mi are 16 MB a head in float32."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_scores"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}; expected an integer of at least 1")


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


def plan_ragged(lengths: Sequence[int], flash_from: int, budget: Budget) -> list[Int64]:
    """Group texts for ragged runs; each group is an array of positions in the input.

    Texts below `flash_from` tokens share runs, sorted by length so that little is masked; longer
    ones run with others of exactly their length, or alone.
    """
    return _plan(lengths, budget, padded=False, flash_from=flash_from)


def plan_padded(lengths: Sequence[int], budget: Budget) -> list[Int64]:
    """Group texts for padded runs, sorted by length so that little is padded."""
    return _plan(lengths, budget, padded=True, flash_from=0)


def _plan(lengths: Sequence[int], budget: Budget, *, padded: bool, flash_from: int) -> list[Int64]:
    order = np.argsort(np.asarray(lengths, np.int64), kind="stable")
    groups: list[list[int]] = []
    tokens = first = 0
    for row in order.tolist():
        length = lengths[row]
        flash = not padded and length >= flash_from
        count = len(groups[-1]) + 1 if groups else 0
        total = count * length if padded else tokens + length
        fits = groups and total <= budget.max_tokens
        # Sorted, so `length` is the longest of its group and the scores are count x length^2.
        fits = fits and (length == first if flash else count * length**2 <= budget.max_scores)
        if fits:
            groups[-1].append(row)
            tokens += length
        else:
            groups.append([row])
            tokens = first = length
    return [np.array(group, np.int64) for group in groups]


def make_batch(rows: Int64, ids: Sequence[Int64], flash_from: int) -> Batch:
    """Concatenate the tokens of a planned group."""
    chosen = [ids[row] for row in rows]
    bounds = np.zeros(len(chosen) + 1, np.int32)
    np.cumsum([len(tokens) for tokens in chosen], out=bounds[1:])
    return Batch(rows, np.concatenate(chosen), bounds, uniform=len(chosen[0]) >= flash_from)


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
