"""What the transforms of a layout may read: a checkpoint's tensors, and what was computed from them once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arrays import AnyArray, Float32, Float64, Int64
from ..checkpoint.rope import Rope
from ..checkpoint.tensors import Checkpoint
from .int8 import column_factors, factors, outliers

CHUNK_ROWS = 8192
"""Rows of the embedding table converted at a time: 24 MB at width 768 in float32."""


class Weights(Protocol):
    """What a transform may ask of a checkpoint."""

    def __contains__(self, name: str) -> bool: ...
    def read(self, name: str) -> Float32: ...
    def read_rows(self, name: str, chunk: int) -> Iterator[AnyArray]: ...


@dataclass(frozen=True, slots=True)
class Material:
    """All that transforms read."""

    weights: Weights
    rope: Rope
    factors: Callable[[str], Float64]
    """What the channels of an activation are divided by; see `int8`."""
    column_factors: Callable[[str], Float64]
    """What the columns of a table are divided by."""
    outliers: Callable[[str], Int64]
    """Which channels of an activation, or of a norm's output, are the largest."""


def material_of(checkpoint: Checkpoint, largest: Mapping[str, NDArray[np.floating[Any]]]) -> Material:
    """Each factor is computed once, when the first transform asks for it.

    Args:
        checkpoint: where the weights come from.
        largest: {linear layer or norm: largest magnitude of each channel}, as the oracle saw them.
    """
    factor = cache(lambda place: factors(place, largest, checkpoint.read))
    return Material(
        weights=checkpoint,
        rope=checkpoint.config.rope,
        factors=factor,
        column_factors=cache(lambda name: column_factors(checkpoint.read_rows(name, CHUNK_ROWS))),
        outliers=cache(lambda place: outliers(place, largest, factor)),
    )
