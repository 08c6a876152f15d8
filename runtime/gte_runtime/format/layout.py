"""The layout of a weight file: the place of each tensor in it, and how it is made from a checkpoint.

A graph carries no weights: its initializers point into weight files by offset. A layout says which bytes
go there. `gte-export` writes both, and one layout serves every checkpoint of an architecture. The format
is documented in models/README.md.

This module opens no files; `building.weights` writes weight files.
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
"""A memory page, in bytes. Tensors start on a page, so reading a mapped one loads no page of another."""

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
"""What may be done to a checkpoint's tensors before they are written; `building.transforms` implements it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a weight file, and how it is made."""

    name: str
    """The initializer's name in the graphs."""
    dtype: str
    """One of DTYPES, little-endian, C order."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the beginning of the file."""
    transform: str
    """One of TRANSFORM_NAMES."""
    sources: tuple[str, ...]
    """What the transform reads: tensors by their names in `checkpoint.tensors` and, for int8, activations and
    norms by their names in `building.int8`."""

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """The contents of one weight file, in order of offset."""

    file: str
    tensors: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """Bytes of the file, which ends with its last tensor."""
        last = self.tensors[-1]
        return last.offset + last.size

    def to_json(self) -> str:
        """The text of a layout file, a line for each tensor."""
        lines = ",\n  ".join(json.dumps(asdict(tensor)) for tensor in self.tensors)
        return f'{{"format": {FORMAT}, "file": {json.dumps(self.file)}, "tensors": [\n  {lines}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Parse and check a layout.

        Raises:
            BundleError: the text is not a layout, or one of another format version.
        """
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
        """Check what the types of the fields do not.

        Raises:
            BundleError: naming the tensor.
            TypeError: a field has the wrong type.
        """
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
    """Lay out tensors one after the other, each at the next multiple of ALIGNMENT.

    Args:
        file: the weight file's name.
        tensors: the fields of `Tensor` without `offset`.
    """
    placed: list[Tensor] = []
    offset = 0
    for fields in tensors:
        tensor = Tensor(offset=offset, **fields)
        placed.append(tensor)
        offset = -(-(offset + tensor.size) // ALIGNMENT) * ALIGNMENT
    return Layout(file, tuple(placed))
