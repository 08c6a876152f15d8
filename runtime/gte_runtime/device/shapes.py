"""Shapes that packed runs are filled up to. Pure: lengths in, arrays and the way back out.

Two uses. A captured CUDA graph replays one shape, so small requests are filled up to the next of a
few. And a GPU that meets ever new shapes allocates ever new buffers, so all other runs are rounded up
to shapes that come again.

What fills is never seen by the texts: places for texts are filled with empty ones in front, tokens
with texts of their own behind. Attention keeps texts apart, and every other operator works by token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..inference.batch import Batch

FILLER = 1
"""The token that fills: `<pad>` in every tokenizer of the family; any id would do."""


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A shape: tokens of the run, texts in it, and what the longest of them may hold."""

    tokens: int
    texts: int
    longest: int

    def __post_init__(self) -> None:
        if not 1 <= self.longest <= self.tokens or self.texts < 1:
            raise ConfigError(
                f"no bucket has {self.tokens} tokens in {self.texts} texts of at most {self.longest}"
            )

    def holds(self, lengths: Sequence[int]) -> bool:
        """Texts of these lengths fit, and so do those that fill up the rest."""
        left = self.tokens - sum(lengths)
        return (
            left >= 0
            and max(lengths) <= self.longest
            and len(lengths) + -(-left // self.longest) <= self.texts
        )


BUCKETS = (
    Bucket(16, 2, 16),
    Bucket(32, 4, 32),
    Bucket(64, 8, 64),
    Bucket(128, 16, 128),
    Bucket(256, 16, 256),
    Bucket(512, 16, 512),
)
"""What the latency mode captures: a query alone, or a few that arrived together. Beyond, computing outweighs
launching."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A batch in the shape of a bucket, and where its own texts are in it."""

    batch: Batch
    longest: int
    """At least the longest text: the second axis of `token_offset`."""
    first: int
    """Texts in front that are not the caller's."""


def smallest(buckets: Iterable[Bucket], lengths: Sequence[int]) -> Bucket | None:
    """The bucket with the fewest tokens that holds these texts."""
    return min((bucket for bucket in buckets if bucket.holds(lengths)), default=None)


def rounded(lengths: Sequence[int]) -> Bucket:
    """A shape close above: at most 63 tokens more up to 2,048, and 255 beyond; twice the texts."""
    step = 64 if sum(lengths) <= 2048 else 256
    tokens = -(-sum(lengths) // step) * step
    longest = min(-(-max(lengths) // 128) * 128, tokens)
    needed = len(lengths) + -(-(tokens - sum(lengths)) // longest)
    return Bucket(tokens, 1 << (needed - 1).bit_length(), longest)


def fill(batch: Batch, bucket: Bucket) -> Filled:
    """Raises ValueError when the bucket does not hold the batch."""
    lengths = batch.lengths.tolist()
    if not bucket.holds(lengths):
        raise ValueError(f"{bucket} does not hold texts of {lengths} tokens")
    left = bucket.tokens - sum(lengths)
    behind = [min(bucket.longest, left - start) for start in range(0, left, bucket.longest)]
    empty = bucket.texts - len(lengths) - len(behind)
    # Empty texts stand in front: their first token is then token 0, which exists; behind the last one there
    # is none.
    bounds = np.zeros(bucket.texts + 1, np.int32)
    np.cumsum([0] * empty + lengths + behind, out=bounds[1:])
    ids = np.concatenate((batch.input_ids, np.full(left, FILLER, np.int64)))
    return Filled(Batch(batch.rows, ids, bounds, batch.uniform), bucket.longest, empty)
