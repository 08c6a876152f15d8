"""What a weight file holds: for each tensor its place, and how it is made from a checkpoint.

A graph carries no weights; its initializers point into weight files by offset. A layout is the
other half: it says which bytes belong there. Both are written together by `gte-export`, and one
layout serves every checkpoint of an architecture. The format is documented in models/README.md.

This module opens no files; `build` writes what it computes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from ..errors import BundleError
from .manifest import PLAIN_NAME

FORMAT = 1

ALIGNMENT = 4096
"""A page: a mapped tensor starts on one, so that touching it reads nothing of its neighbours."""

DTYPES = ("float32", "float16", "int8")

TRANSFORM_NAMES = frozenset(
    {
        "copy",
        "transpose",
        "transpose_beside",
        "zeros",
        "first_row_or_zeros",
        "transpose_or_zeros",
        "fold_value_bias",
        "add",
        "add_folded",
        "divide",
        "quantize",
        "quantize_scale",
        "quantize_inner",
        "quantize_inner_scale",
        "outlier_mask",
        "outlier_select",
        "outlier_rows",
        "quantize_table",
        "quantize_table_rows",
        "quantize_table_columns",
        "rope_cos",
        "rope_sin",
    }
)
"""What may be done to a checkpoint's tensors on the way into a weight file. `building.transforms` does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a weight file."""

    name: str
    """The initializer's name in the graphs."""
    dtype: str
    """One of DTYPES, little-endian, C order."""
    shape: tuple[int, ...]
    offset: int
    transform: str
    """One of TRANSFORM_NAMES."""
    sources: tuple[str, ...]
    """Names that the transform reads: of the checkpoint view or, where it says so, of activations of `balance`."""

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
            tensors = tuple(
                Tensor(**{**t, "shape": tuple(t["shape"]), "sources": tuple(t["sources"])})
                for t in raw["tensors"]
            )
            layout = cls(raw["file"], tensors)
            layout._check()
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise BundleError(f"not a layout: {str(error)[:120]}") from None
        return layout

    def _check(self) -> None:
        """Raises BundleError, or TypeError where a field is of another type than it should be."""
        if not PLAIN_NAME.fullmatch(self.file) or not self.tensors:
            raise BundleError(
                f"layout of {self.file[:80]!r}: expected a plain file name and at least one tensor"
            )
        end = 0
        for tensor in self.tensors:
            at, name = f"layout of {self.file}", f"{tensor.name}"[:80]
            words, numbers = (
                (tensor.name, tensor.dtype, tensor.transform, *tensor.sources),
                (tensor.offset, *tensor.shape),
            )
            if not all(isinstance(word, str) for word in words) or not all(
                type(number) is int for number in numbers
            ):
                raise BundleError(f"{at}: {name} has a field of another type")
            if tensor.transform not in TRANSFORM_NAMES:
                raise BundleError(f"{at}: unknown transform {tensor.transform[:80]!r} of {name}")
            if tensor.dtype not in DTYPES:
                raise BundleError(f"{at}: {name} has type {tensor.dtype[:80]!r}; known: {', '.join(DTYPES)}")
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
