"""Quantizes finished vectors, as `quantize_embeddings` of sentence-transformers does. Pure.

int8 and uint8 divide the range that each dimension has in the given vectors into 256 steps; binary and
ubinary keep the sign of each dimension, eight in a byte.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

UInt8 = NDArray[np.uint8]

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
FEW = 100
"""With fewer vectors there is a warning: they hardly show the range of a dimension."""


def check_precision(precision: str) -> None:
    """Raises ConfigError for an unknown name."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")


def quantize(vectors: NDArray[np.float32], precision: str) -> NDArray[Any]:
    """float32 [N, dim] to [N, dim] of the precision's type; binary and ubinary give [N, ceil(dim / 8)].

    Raises:
        ConfigError: int8 or uint8 of a single vector, which has no range.
    """
    if precision == "float32" or not len(vectors):
        return vectors
    if precision in ("binary", "ubinary"):
        bits: UInt8 = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else _signed(bits)
    if len(vectors) == 1:
        raise ConfigError(
            f"precision={precision!r} takes its steps from the range of many vectors, and here is one"
        )
    if len(vectors) < FEW:
        warnings.warn(
            f"precision={precision!r} takes its steps from the range of {len(vectors)} vectors; "
            f"give {FEW} or more",
            stacklevel=3,
        )
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    step = (high - low) / np.float32(255)
    step[step == 0] = 1
    levels: UInt8 = np.clip(np.floor((vectors - low) / step), 0, 255).astype(np.uint8)
    return levels if precision == "uint8" else _signed(levels)


def _signed(values: UInt8) -> NDArray[np.int8]:
    """0..255 as -128..127."""
    return (values ^ np.uint8(0x80)).view(np.int8)
