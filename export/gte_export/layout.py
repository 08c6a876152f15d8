"""Which weight files there are, and which tensors of the encoder go into which.

The table has a file of its own: it is two thirds of the model and the same in every variant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gte_runtime.architecture import Architecture
from gte_runtime.layout import Layout, place

TABLE = "embeddings.word"


def table_file(dtype: str) -> str:
    return f"table-{_short(dtype)}.bin"


def weights_file(dtype: str) -> str:
    return f"weights-{_short(dtype)}.bin"


def table_layout(a: Architecture, dtype: str) -> Layout:
    """The embedding table, as it is."""
    return place(table_file(dtype), [_tensor(TABLE, dtype, (a.vocab_size, a.hidden_size), "copy", TABLE)])


def weights_layout(a: Architecture, dtype: str) -> Layout:
    """Everything but the table, in the order in which a run touches it."""
    return place(weights_file(dtype), _weights(a, dtype))


def _weights(a: Architecture, dtype: str) -> Iterator[dict[str, Any]]:
    h, i = a.hidden_size, a.intermediate_size
    yield _tensor("embeddings.token_type", dtype, (h,), "first_row_or_zeros", "embeddings.token_type")
    yield from _pair("embeddings.norm", dtype, h)
    for table in ("cos", "sin"):
        yield _tensor(f"rope.{table}", dtype, (a.max_positions, a.head_size // 2), f"rope_{table}")
    for n in range(a.layers):
        at = f"layers.{n}"
        for part in ("query", "key"):
            yield _tensor(f"{at}.{part}.weight", dtype, (h, h), "transpose", f"{at}.{part}.weight")
            yield _tensor(f"{at}.{part}.bias", dtype, (h,), "copy", f"{at}.{part}.bias")
        yield _tensor(f"{at}.value.weight", dtype, (h, h), "transpose", f"{at}.value.weight")
        yield _tensor(f"{at}.output.weight", dtype, (h, h), "transpose", f"{at}.output.weight")
        folded = (f"{at}.output.bias", f"{at}.output.weight", f"{at}.value.bias")
        yield _tensor(f"{at}.output.bias", dtype, (h,), "fold_value_bias", *folded)
        yield from _pair(f"{at}.attention_norm", dtype, h)
        for part in ("gate", "up"):
            yield _tensor(f"{at}.{part}.weight", dtype, (h, i), "transpose", f"{at}.{part}.weight")
        yield _tensor(f"{at}.down.weight", dtype, (i, h), "transpose", f"{at}.down.weight")
        yield _tensor(f"{at}.down.bias", dtype, (h,), "copy", f"{at}.down.bias")
        yield from _pair(f"{at}.mlp_norm", dtype, h)
    yield _tensor("token_head.weight", dtype, (h, 1), "transpose_or_zeros", "token_head.weight")
    yield _tensor("token_head.bias", dtype, (1,), "transpose_or_zeros", "token_head.bias")


def _pair(name: str, dtype: str, width: int) -> Iterator[dict[str, Any]]:
    for kind in ("weight", "bias"):
        yield _tensor(f"{name}.{kind}", dtype, (width,), "copy", f"{name}.{kind}")


def _tensor(name: str, dtype: str, shape: tuple[int, ...], transform: str, *sources: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "transform": transform, "sources": sources}


def _short(dtype: str) -> str:
    return {"float16": "fp16", "float32": "fp32"}[dtype]
