"""Columns of a job's output: the types of ids and carried fields, and vectors as Arrow arrays. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Float32
from ..errors import ConfigError

DTYPES = ("float32", "float16", "int8", "binary")
"""float32 and float16 as they are; int8 holds 127 x the value, rounded; binary holds the signs, eight in a
byte, as sentence-transformers' "ubinary" does."""

KINDS = ("int64", "float64", "bool", "string")
"""Types of columns of ids and carried fields."""


def quantized(dense: Float32, dtype: str) -> NDArray[Any]:
    """[N, dim] float32, L2-normalised, in another type: [N, dim], or [N, ceil(dim / 8)] for "binary"."""
    if dtype == "binary":
        return np.packbits(dense > 0, axis=-1)
    if dtype == "int8":
        return np.rint(np.clip(dense, -1, 1) * 127).astype(np.int8)
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    return dense.astype(dtype, copy=False)


def kind_of(values: Iterable[Any]) -> str | None:
    """The type of a column that holds these values: None if all of them are missing. Whole numbers beyond
    64 bits, lists, objects and a mixture become strings."""
    found = {_kind(value) for value in values if value is not None}
    if not found:
        return None
    if found == {"int64", "float64"}:
        return "float64"
    return found.pop() if len(found) == 1 else "string"


def fits(value: Any, kind: str) -> bool:
    """Whether a column of this type holds a value without changing it. A column of strings holds
    everything."""
    return (
        value is None
        or kind == "string"
        or _kind(value) == kind
        or (kind, _kind(value)) == ("float64", "int64")
    )


def cell(value: Any, kind: str) -> Any:
    """A value as a column of this type holds it; what is no string is JSON in a column of strings."""
    if value is None or kind != "string" or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "string"
    return "float64" if isinstance(value, float) else "string"


def dense_type(pa: Any, dim: int, dtype: str) -> Any:
    """The Arrow type of a column of dense vectors: a list of fixed size."""
    if dtype == "binary":
        return pa.list_(pa.uint8(), -(-dim // 8))
    return pa.list_({"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[dtype], dim)


def dense_column(pa: Any, dense: Float32, rows: Sequence[int], count: int, dtype: str) -> Any:
    """A column of `count` vectors, of which those at `rows` are given and the others are null."""
    kind = dense_type(pa, dense.shape[1], dtype)
    values = quantized(dense, dtype)
    if len(rows) == count:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind)
    whole = np.zeros((count, values.shape[1]), values.dtype)
    whole[list(rows)] = values
    missing = np.ones(count, np.bool_)
    missing[list(rows)] = False
    return pa.FixedSizeListArray.from_arrays(pa.array(whole.ravel()), type=kind, mask=pa.array(missing))
