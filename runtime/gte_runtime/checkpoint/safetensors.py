"""Reads a safetensors file with numpy, mapped into memory rather than loaded.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the length of the header,
little-endian; a JSON header; the tensors' bytes. This module knows nothing about models.
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
"""Bytes: the limit of the reference implementation."""

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
"""The types that weights may have."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's type, its shape, and the offset of its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class SafetensorsFile(Mapping[str, Entry]):
    """The entries of one file by name; `read` returns their values. Close it, or use it in a `with`.

    Raises:
        CheckpointError: the header is not that of a safetensors file, or does not fit the file's size.
    """

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
        """Values of a tensor of one of the types FLOATS, only the given rows of its first axis.

        float16 and float32 are returned as stored, bfloat16 as float32, which is exact. The array is a copy,
        so it stays valid when the file is closed.
        """
        entry = self._entries[name]
        stored = np.uint16 if entry.dtype == "BF16" else np.dtype(f"<f{ITEM_SIZES[entry.dtype]}")
        values = np.frombuffer(self._map, stored, prod(entry.shape), entry.offset).reshape(entry.shape)[rows]
        if entry.dtype == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.copy()

    def close(self) -> None:
        """Release the file. No tensor can be read afterwards."""
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
