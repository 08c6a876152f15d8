"""Reads a safetensors file with numpy, mapped into memory rather than loaded.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the length of the header,
little-endian; a JSON header; the tensors' bytes. This module knows nothing about models.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from ..format.values import parse_json

MAX_HEADER = 16 * 2**20
"""Bytes. A header has some 100 for each tensor, and a model of this family has a few hundred tensors. The
reference implementation allows 100 MB, which as Python objects would take gigabytes."""

MAX_DIMENSIONS = 8
"""Of a tensor. Weights have one or two."""

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

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * ITEM_SIZES[self.dtype]


class SafetensorsFile(Mapping[str, Entry]):
    """The entries of one file by name; `read` returns their values. Close it, or use it in a `with`.

    Raises:
        CheckpointError: the file cannot be read, is not a safetensors file, or breaks a rule of the format:
            the tensors must fill it without overlaps and holes, and no key may occur twice.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            # Not blocking, so that a named pipe is refused by its mode and does not wait for a writer.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise CheckpointError(f"{self.name} is not a regular file")
                size = status.st_size
                self._entries = _parse_header(file.read(min(size, 8)), file.read, size, self.name)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"{self.name} cannot be read: {error.strerror or error}") from None

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
    data = read(length)
    # The format demands it; without it, spaces in front would be accepted here and refused elsewhere.
    if not data.startswith(b"{"):
        raise CheckpointError(f"{name} has a header that is not JSON, or not an object")
    try:
        header = parse_json(data)
    except ValueError as error:
        raise CheckpointError(f"{name} has a header that is not JSON: {str(error)[:120]}") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError(f"{name}: the header entry __metadata__ is not understood")
    start = 8 + length
    entries = {tensor: _entry(tensor, record, start, size, name) for tensor, record in header.items()}
    _check_order(entries, start, size, name)
    return entries


def _check_order(entries: Mapping[str, Entry], start: int, size: int, name: str) -> None:
    """Check that the tensors fill the file: none overlaps another, and nothing lies between or behind them.

    The format demands it, so that no two readers see different values and no file hides anything.
    """
    end = start
    for tensor, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].size)):
        if entry.offset != end:
            what = "overlaps another tensor" if entry.offset < end else "leaves a hole in front of it"
            raise CheckpointError(f"{name}: tensor {tensor[:80]} {what}; the format forbids it")
        end += entry.size
    if end != size:
        raise CheckpointError(
            f"{name} has {size - end} bytes after its last tensor; the format forbids it, download it again"
        )


def _entry(tensor: str, record: Any, start: int, size: int, name: str) -> Entry:
    shown = tensor[:80]
    try:
        dtype, sizes, offsets = record["dtype"], record["shape"], record["data_offsets"]
        if not isinstance(dtype, str) or not isinstance(sizes, list) or not isinstance(offsets, list):
            raise TypeError
        shape, (begin, end) = tuple(sizes), offsets
        if any(type(number) is not int for number in (*shape, begin, end)):
            raise TypeError
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{name}: the header entry of tensor {shown} is not understood") from None
    if dtype not in ITEM_SIZES:
        raise CheckpointError(
            f"{name}: tensor {shown} has type {dtype[:80]}; implemented: {', '.join(FLOATS)}"
        )
    # Checked before the product of the shape, which could have millions of digits.
    if (
        len(shape) > MAX_DIMENSIONS
        or not all(0 <= number < 2**63 for number in shape)
        or not 0 <= begin <= end
    ):
        raise CheckpointError(f"{name}: the header entry of tensor {shown} is not understood")
    if end > size - start:
        raise CheckpointError(
            f"{name}: tensor {shown} ends at byte {start + end}, the file has {size}; download it again"
        )
    entry = Entry(dtype, shape, start + begin)
    if end - begin != entry.size:
        raise CheckpointError(
            f"{name}: tensor {shown} has {end - begin} bytes, its shape {str(list(shape))[:80]} does not fit"
        )
    return entry
