"""Shapes that packed runs are padded to. Pure: lengths in, arrays and the way back out.

There are two uses. A captured CUDA graph replays one shape, so a small request is padded to the smallest
captured shape that holds it. And a GPU allocates new buffers for every new shape, so all other runs are
rounded up to shapes that recur.

The padding never changes the result of a text. Missing texts are added in front as empty texts, missing
tokens at the end as texts of their own. Attention works within each text, and every other operator works
token by token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..inference.batch import Batch

PAD_ID = 1
"""The token that is added: `<pad>` in every tokenizer of the family; any id would do."""


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """The shape of a packed run: its tokens, its texts, and the most tokens that one text may have."""

    tokens: int
    texts: int
    longest: int

    def __post_init__(self) -> None:
        if not 1 <= self.longest <= self.tokens or self.texts < 1:
            raise ConfigError(
                f"no shape has {self.tokens} tokens in {self.texts} texts of at most {self.longest}"
            )

    def holds(self, lengths: Sequence[int]) -> bool:
        """Whether texts of these lengths fit, together with the texts that take the remaining tokens."""
        left = self.tokens - sum(lengths)
        return (
            left >= 0
            and max(lengths) <= self.longest
            and len(lengths) + -(-left // self.longest) <= self.texts
        )


CAPTURED_SHAPES = (
    Shape(16, 2, 16),
    Shape(32, 4, 32),
    Shape(64, 8, 64),
    Shape(128, 16, 128),
    Shape(256, 16, 256),
    Shape(512, 16, 512),
)
"""What the latency mode captures: one query, or a few that arrive together. Larger runs spend more time on
computing than on launching kernels, so a CUDA graph gains little."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A batch that was padded to a shape, and where the caller's texts are in it."""

    batch: Batch
    longest: int
    """The longest text that the shape allows: the second axis of `token_offset`."""
    first: int
    """Position of the caller's first text: so many empty ones are before it."""


def smallest(shapes: Iterable[Shape], lengths: Sequence[int]) -> Shape | None:
    """The shape with the fewest tokens that holds these texts; None if none does."""
    return min((shape for shape in shapes if shape.holds(lengths)), default=None)


def rounded(lengths: Sequence[int]) -> Shape:
    """A shape slightly larger than these texts need, so that few different ones occur.

    It has at most 63 tokens more than needed up to 2,048 tokens, at most 255 more above, and at most twice
    the texts.
    """
    step = 64 if sum(lengths) <= 2048 else 256
    tokens = -(-sum(lengths) // step) * step
    longest = min(-(-max(lengths) // 128) * 128, tokens)
    needed = len(lengths) + -(-(tokens - sum(lengths)) // longest)
    return Shape(tokens, 1 << (needed - 1).bit_length(), longest)


def fill(batch: Batch, shape: Shape) -> Filled:
    """The batch, padded to a shape. Raises ValueError when the shape does not hold it."""
    lengths = batch.lengths.tolist()
    if not shape.holds(lengths):
        raise ValueError(f"{shape} does not hold texts of {lengths} tokens")
    left = shape.tokens - sum(lengths)
    added = [min(shape.longest, left - start) for start in range(0, left, shape.longest)]
    empty = shape.texts - len(lengths) - len(added)
    # The graph reads the first token of every text. For an empty text in front that is token 0, which exists;
    # for one at the end it would be the token after the last.
    bounds = np.zeros(shape.texts + 1, np.int32)
    np.cumsum([0] * empty + lengths + added, out=bounds[1:])
    ids = np.concatenate((batch.input_ids, np.full(left, PAD_ID, np.int64)))
    return Filled(Batch(batch.rows, ids, bounds, batch.uniform), shape.longest, empty)
