"""The inputs of the transforms: a checkpoint's tensors, and values computed from them."""

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
"""Rows of the embedding table that are converted at a time: 25 MB at width 768 in float32."""


class Weights(Protocol):
    """The methods of `Checkpoint` that transforms use."""

    def __contains__(self, name: str) -> bool: ...
    def read(self, name: str) -> Float32: ...
    def read_rows(self, name: str, chunk: int) -> Iterator[AnyArray]: ...


@dataclass(frozen=True, slots=True)
class Material:
    """All inputs of the transforms."""

    weights: Weights
    rope: Rope
    factors: Callable[[str], Float64]
    """From an activation to the factors that its channels are divided by; see `int8.factors`."""
    column_factors: Callable[[str], Float64]
    """From a table to the factors that its columns are divided by; see `int8.column_factors`."""
    outliers: Callable[[str], Int64]
    """From an activation or a norm to its largest channels; see `int8.outliers`."""


def material_of(checkpoint: Checkpoint, largest: Mapping[str, NDArray[np.floating[Any]]]) -> Material:
    """The inputs of the transforms for a checkpoint. Each factor is computed once, at its first use.

    Args:
        checkpoint: the weights.
        largest: {linear layer or norm: largest magnitude of each channel}, from the oracle.
    """
    factor = cache(lambda place: factors(place, largest, checkpoint.read))
    return Material(
        weights=checkpoint,
        rope=checkpoint.config.rope,
        factors=factor,
        column_factors=cache(lambda name: column_factors(checkpoint.read_rows(name, CHUNK_ROWS))),
        outliers=cache(lambda place: outliers(place, largest, factor)),
    )
