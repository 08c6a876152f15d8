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
from .values import Bounds, parse_json, read_as, shown

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
        "multiply",
        "multiply_inner",
        "quantize_inner",
        "quantize_inner_scale",
        "outlier_mask",
        "outlier_select",
        "outlier_rows",
        "quantize_table",
        "quantize_table_rows",
        "quantize_table_columns",
        "ones",
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


MAX_DIMENSIONS = 8
BOUNDS: Bounds = {(Tensor, "offset"): (0, 2**40), (Tensor, "shape"): (1, 2**40)}
"""The least and the most of each number: no weight file has a terabyte."""


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
            raw = parse_json(text.encode())
            if not isinstance(raw, dict):
                raise ValueError(f"expected an object, found {shown(raw)}")
            if raw["format"] != FORMAT:
                raise BundleError(f"layout format {shown(raw['format'])}; this version reads {FORMAT}")
            file = read_as(str, raw["file"], "file.")
            if not isinstance(raw["tensors"], list):
                raise ValueError(f"tensors = {shown(raw['tensors'])}")
            layout = cls(file, tuple(_tensor(file, record) for record in raw["tensors"]))
            layout._check()
        except (KeyError, ValueError) as error:
            raise BundleError(f"not a layout: {str(error)[:120]}") from None
        return layout

    def _check(self) -> None:
        """Check what the types of the fields do not.

        Raises:
            BundleError: naming the tensor.
        """
        if not PLAIN_NAME.fullmatch(self.file) or not self.tensors:
            raise BundleError(
                f"layout of {self.file[:80]!r}: expected a plain file name and at least one tensor"
            )
        end = 0
        for tensor in self.tensors:
            at, name = f"layout of {self.file}", f"{tensor.name}"[:80]
            if tensor.transform not in TRANSFORM_NAMES:
                raise BundleError(f"{at}: unknown transform {tensor.transform[:80]!r} of {name}")
            if tensor.dtype not in DTYPES:
                raise BundleError(f"{at}: {name} has type {tensor.dtype[:80]!r}; known: {', '.join(DTYPES)}")
            if len(tensor.shape) > MAX_DIMENSIONS or tensor.size > BOUNDS[Tensor, "offset"][1]:
                raise BundleError(f"{at}: the shape of {name} is far too large")
            if tensor.offset < end or min(tensor.shape, default=1) < 1:
                raise BundleError(f"{at}: {name} overlaps its neighbour or is empty")
            end = tensor.offset + tensor.size


def _tensor(file: str, record: Any) -> Tensor:
    try:
        tensor: Tensor = read_as(Tensor, record, bounds=BOUNDS)
    except ValueError as error:
        name = shown(record.get("name")) if isinstance(record, dict) else "a tensor"
        raise BundleError(f"layout of {file[:80]}: {name}: {str(error)[:120]}") from None
    return tensor


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
