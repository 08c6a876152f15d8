"""Reads and writes safetensors files for tests, and derives checkpoints from the default model's.

Written apart from `gte_runtime.safetensors`, which it helps to test.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
}


class Tensor(NamedTuple):
    """A tensor as a file holds it. bfloat16 has no numpy type, so values are bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, values: NDArray[Any], dtype: str = "F16") -> Tensor:
        """Rounds to bfloat16 by cutting, as good as any for tests."""
        if dtype == "BF16":
            wide = np.ascontiguousarray(values, np.float32).view(np.uint32)
            return cls(dtype, values.shape, (wide >> 16).astype(np.uint16).tobytes())
        return cls(dtype, values.shape, values.astype(TYPES[dtype]).tobytes())

    def values(self) -> NDArray[Any]:
        if self.dtype == "BF16":
            wide = np.frombuffer(self.data, np.uint16).astype(np.uint32) << 16
            return wide.view(np.float32).reshape(self.shape)
        return np.frombuffer(self.data, TYPES[self.dtype]).reshape(self.shape)


Tensors = dict[str, Tensor]

Derive = Callable[..., Path]
"""`derive` from the default model, into a directory of the test's own: the fixture `derived`."""


def read_tensors(path: Path) -> Tensors:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: Tensor(
            entry["dtype"],
            tuple(entry["shape"]),
            data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
        )
        for name, entry in header.items()
    }


def safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    header: dict[str, Any] = {}
    at = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(tensor.data)],
        }
        at += len(tensor.data)
    return with_header(json.dumps(header).encode()) + b"".join(tensor.data for tensor in tensors.values())


def with_header(header: bytes) -> bytes:
    """The beginning of a file with these bytes as its header."""
    return len(header).to_bytes(8, "little") + header


def derive(
    source: Path,
    target: Path,
    change: Callable[[Tensors], object] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Copy a checkpoint, with its tensors edited in place by `change` and config keys set; a key set to None
    is removed.
    """
    target.mkdir()
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
    raw = json.loads((source / "config.json").read_text(encoding="utf-8")) | dict(config or {})
    kept = {key: value for key, value in raw.items() if value is not None}
    (target / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    tensors = read_tensors(source / "model.safetensors")
    if change is not None:
        change(tensors)
    (target / "model.safetensors").write_bytes(safetensors(tensors))
    return target
