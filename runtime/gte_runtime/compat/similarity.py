"""The four similarities of sentence-transformers; larger is more similar. Pure.

Distances are negated. They are computed from differences, row by row, since the usual formula with products
loses small distances to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Float32
from ..scoring import cut_and_normalise


def euclidean(a: Float32, b: Float32) -> Float32:
    """The negated Euclidean distance along the last axis."""
    return np.asarray(-np.sqrt(np.square(a - b).sum(axis=-1)), np.float32)


def manhattan(a: Float32, b: Float32) -> Float32:
    """The negated sum of absolute differences along the last axis."""
    return np.asarray(-np.abs(a - b).sum(axis=-1), np.float32)


DISTANCES: dict[str, Callable[[Float32, Float32], Float32]] = {"euclidean": euclidean, "manhattan": manhattan}
NAMES = ("cosine", "dot", *DISTANCES)


def each_with_each(name: str, a: Float32, b: Float32) -> Float32:
    """Similarities of every row with every row: [N, M] for a [N, dim] and b [M, dim]."""
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    if name in DISTANCES:
        rows: list[Any] = [DISTANCES[name](row, b) for row in a]
        return np.stack(rows) if rows else np.zeros((0, len(b)), np.float32)
    if name == "cosine":
        a, b = cut_and_normalise(a), cut_and_normalise(b)
    return np.asarray(a @ b.T, np.float32)


def pairwise(name: str, a: Float32, b: Float32) -> Float32:
    """Similarities of row i with row i: [N] for a and b [N, dim]; a scalar for two vectors."""
    if name in DISTANCES:
        return DISTANCES[name](a, b)
    if name == "cosine":
        a, b = (cut_and_normalise(np.atleast_2d(rows)).reshape(rows.shape) for rows in (a, b))
    return np.asarray((a * b).sum(axis=-1), np.float32)
