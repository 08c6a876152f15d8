"""What a weight file holds: for each tensor its place, and how it is made from a checkpoint.

A graph carries no weights; its initializers point into weight files by offset. A layout is the
other half: it says which bytes belong there. Both are written together by `gte-export`, and one
layout serves every checkpoint of an architecture. The format is documented in models/README.md.

This module opens no files; `build` writes what it computes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError
from .manifest import PLAIN_NAME
from .rope import Rope

FORMAT = 1
ALIGNMENT = 4096
"""A page: a mapped tensor starts on one, so that touching it reads nothing of its neighbours."""

CHUNK_ROWS = 8192
"""Rows of the embedding table converted at a time: 24 MB at width 768 in float32."""

Array = NDArray[Any]


class Weights(Protocol):
    """What a transform may ask of a checkpoint."""

    def __contains__(self, name: str) -> bool: ...
    def read(self, name: str) -> NDArray[np.float32]: ...
    def read_rows(self, name: str, chunk: int) -> Iterator[Array]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a weight file."""

    name: str
    """The initializer's name in the graphs."""
    dtype: str
    """`float32` or `float16`, little-endian, C order."""
    shape: tuple[int, ...]
    offset: int
    transform: str
    """A key of TRANSFORMS."""
    sources: tuple[str, ...]
    """Names of the checkpoint view that the transform reads."""

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """The contents of one weight file."""

    file: str
    tensors: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """Bytes of the file: up to the end of the last tensor."""
        last = self.tensors[-1]
        return last.offset + last.size

    def to_json(self) -> str:
        lines = ",\n  ".join(json.dumps(asdict(tensor)) for tensor in self.tensors)
        return f'{{"format": {FORMAT}, "file": {json.dumps(self.file)}, "tensors": [\n  {lines}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Raises BundleError when the text is not a layout of a format we know."""
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise BundleError(f"layout format {raw['format']}; this version reads {FORMAT}")
            tensors = tuple(Tensor(**{**t, "shape": tuple(t["shape"]), "sources": tuple(t["sources"])}) for t in raw["tensors"])
            layout = cls(raw["file"], tensors)
            layout._check()
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise BundleError(f"not a layout: {str(error)[:120]}") from None
        return layout

    def _check(self) -> None:
        """Raises BundleError, or TypeError where a field is of another type than it should be."""
        if not PLAIN_NAME.fullmatch(self.file) or not self.tensors:
            raise BundleError(f"layout of {self.file[:80]!r}: expected a plain file name and at least one tensor")
        end = 0
        for tensor in self.tensors:
            at, name = f"layout of {self.file}", f"{tensor.name}"[:80]
            words, numbers = (tensor.name, tensor.dtype, tensor.transform, *tensor.sources), (tensor.offset, *tensor.shape)
            if not all(isinstance(word, str) for word in words) or not all(type(number) is int for number in numbers):
                raise BundleError(f"{at}: {name} has a field of another type")
            if tensor.transform not in TRANSFORMS:
                raise BundleError(f"{at}: unknown transform {tensor.transform[:80]!r} of {name}")
            if tensor.dtype not in ("float32", "float16"):
                raise BundleError(f"{at}: {name} has type {tensor.dtype[:80]!r}; known: float32, float16")
            if tensor.offset < end or min(tensor.shape, default=1) < 1:
                raise BundleError(f"{at}: {name} overlaps its neighbour or is empty")
            end = tensor.offset + tensor.size


def place(file: str, tensors: Iterable[Mapping[str, Any]]) -> Layout:
    """Give tensors their offsets, in order, each at the next multiple of ALIGNMENT."""
    placed: list[Tensor] = []
    offset = 0
    for fields in tensors:
        tensor = Tensor(offset=offset, **fields)
        placed.append(tensor)
        offset = -(-(offset + tensor.size) // ALIGNMENT) * ALIGNMENT
    return Layout(file, tuple(placed))


def pieces(tensor: Tensor, weights: Weights, rope: Rope) -> Iterator[Array]:
    """The tensor's values in order, in pieces, in the dtype of the file.

    Raises:
        BundleError: a transform gave another shape than the layout promises.
    """
    dtype = np.dtype(tensor.dtype)
    done = 0
    for piece in TRANSFORMS[tensor.transform](tensor, weights, rope):
        done += piece.size
        yield np.ascontiguousarray(piece, dtype=dtype.newbyteorder("<"))
    if done != prod(tensor.shape):
        raise BundleError(f"{tensor.name}: {tensor.transform} gave {done} values for shape {list(tensor.shape)}")


def _copy(tensor: Tensor, weights: Weights, rope: Rope) -> Iterator[Array]:
    """The tensor as it is; a table in pieces."""
    yield from weights.read_rows(tensor.sources[0], CHUNK_ROWS)


def _transpose(tensor: Tensor, weights: Weights, rope: Rope) -> Iterator[Array]:
    """[out, in] of PyTorch to [in, out] of MatMul."""
    yield weights.read(tensor.sources[0]).T


def _first_row_or_zeros(tensor: Tensor, weights: Weights, rope: Rope) -> Iterator[Array]:
    """The token-type row. Adding zeros is exact, so a checkpoint without the table needs no other graph."""
    yield weights.read(tensor.sources[0])[0] if tensor.sources[0] in weights else np.zeros(tensor.shape, np.float32)


def _transpose_or_zeros(tensor: Tensor, weights: Weights, rope: Rope) -> Iterator[Array]:
    """The sparse head, [1, H] to [H, 1]; zeros where there is none, and the manifest says so."""
    yield weights.read(tensor.sources[0]).T if tensor.sources[0] in weights else np.zeros(tensor.shape, np.float32)


def _fold_value_bias(tensor: Tensor, weights: Weights, rope: Rope) -> Iterator[Array]:
    """bo + Wo bv. Attention weights sum to one, so the value bias passes through attention unchanged."""
    output_bias, output_weight, value_bias = (weights.read(name).astype(np.float64) for name in tensor.sources)
    yield output_bias + output_weight @ value_bias


def _rope_cos(tensor: Tensor, weights: Weights, rope: Rope) -> Iterator[Array]:
    yield rope.tables(tensor.shape[0])[0]


def _rope_sin(tensor: Tensor, weights: Weights, rope: Rope) -> Iterator[Array]:
    yield rope.tables(tensor.shape[0])[1]


TRANSFORMS: dict[str, Callable[[Tensor, Weights, Rope], Iterator[Array]]] = {
    "copy": _copy,
    "transpose": _transpose,
    "first_row_or_zeros": _first_row_or_zeros,
    "transpose_or_zeros": _transpose_or_zeros,
    "fold_value_bias": _fold_value_bias,
    "rope_cos": _rope_cos,
    "rope_sin": _rope_sin,
}
