"""Reads a safetensors file with numpy, without copying it into memory.

Format: an 8-byte little-endian header length, a JSON header, the tensors. This module knows
nothing about models.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError

MAX_HEADER = 100_000_000
"""The limit of the reference implementation, in bytes."""

ITEM_SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
FLOATS = ("F32", "F16", "BF16")
"""The types that weights may have. bfloat16 is widened to float32, which loses nothing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: its type, shape and the absolute byte offset of its first value."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class SafetensorsFile(Mapping[str, Entry]):
    """The entries of one file by name; `read` gives their values. Close it, or use it in a `with`."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._entries = _parse_header(file.read(min(size, 8)), file.read, size, self.name)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """The tensor as float32 or float16, only the given rows of its first axis.

        A float16 or float32 tensor is copied out of the map, so that it outlives the file.
        """
        entry = self._entries[name]
        stored = np.uint16 if entry.dtype == "BF16" else np.dtype(f"<f{ITEM_SIZES[entry.dtype]}")
        values = np.frombuffer(self._map, stored, prod(entry.shape), entry.offset).reshape(entry.shape)[rows]
        if entry.dtype == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.copy()

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse_header(prefix: bytes, read: Any, size: int, name: str) -> dict[str, Entry]:
    length = int.from_bytes(prefix, "little")
    if prefix.startswith(b"version "):
        raise CheckpointError(f"{name} is a Git LFS pointer, not the file itself; run git lfs pull")
    if len(prefix) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
        raise CheckpointError(
            f"{name} is not a safetensors file, or is cut off: {size} bytes, header of {length}"
        )
    try:
        header = json.loads(read(length))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} has a header that is not JSON: {str(error)[:120]}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{name} has a header that is not an object")
    header.pop("__metadata__", None)
    return {tensor: _entry(tensor, record, 8 + length, size, name) for tensor, record in header.items()}


def _entry(tensor: str, record: Any, start: int, size: int, name: str) -> Entry:
    shown = tensor[:80]
    try:
        dtype, shape, (begin, end) = record["dtype"], tuple(record["shape"]), record["data_offsets"]
        if not isinstance(dtype, str) or any(type(n) is not int for n in (*shape, begin, end)):
            raise TypeError
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{name}: the header entry of tensor {shown} is not understood") from None
    if dtype not in ITEM_SIZES:
        raise CheckpointError(
            f"{name}: tensor {shown} has type {dtype[:80]}; implemented: {', '.join(FLOATS)}"
        )
    if min(shape, default=0) < 0 or not 0 <= begin <= end:
        raise CheckpointError(f"{name}: the header entry of tensor {shown} is not understood")
    if end > size - start:
        raise CheckpointError(
            f"{name}: tensor {shown} ends at byte {start + end}, the file has {size}; download it again"
        )
    if end - begin != prod(shape) * ITEM_SIZES[dtype]:
        raise CheckpointError(
            f"{name}: tensor {shown} has {end - begin} bytes, its shape {str(list(shape))[:80]} does not fit"
        )
    return Entry(dtype, shape, start + begin)
