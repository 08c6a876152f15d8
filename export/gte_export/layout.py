"""The layouts: which weight files there are, and which parameter of an encoder is in which.

The embedding table has a file of its own: it is two thirds of the model and several variants share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gte_runtime.building.int8 import OUTLIERS
from gte_runtime.format.architecture import Architecture
from gte_runtime.format.layout import Layout, place
from gte_runtime.proof.graph_in_numpy import SPLIT_GELU_WIDTHS

TABLE = "embeddings.word"
OUTLIERS_FILE = "weights-int8-outliers.bin"


def table_file(dtype: str) -> str:
    """The weight file of the embedding table in a type."""
    return f"table-{_short(dtype)}.bin"


def weights_file(dtype: str) -> str:
    """The weight file of `weights_layout`."""
    return f"weights-{_short(dtype)}.bin"


def packed_file(dtype: str) -> str:
    """The weight file of `packed_layout`."""
    return f"packed-{_short(dtype)}.bin"


def splits_in_one_kernel(a: Architecture) -> bool:
    """Whether BiasSplitGelu has a kernel for this width. Other widths take Split, Gelu and Mul."""
    return 2 * a.intermediate_size in SPLIT_GELU_WIDTHS


def table_layout(a: Architecture, dtype: str) -> Layout:
    """The embedding table, in float or in int8 with a factor for each row and column."""
    if dtype == "int8":
        values = _tensor(TABLE, dtype, (a.vocab_size, a.hidden_size), "quantize_table", TABLE)
        rows = _tensor("embeddings.rows", "float32", (a.vocab_size, 1), "quantize_table_rows", TABLE)
        columns = _tensor("embeddings.columns", "float32", (a.hidden_size,), "quantize_table_columns", TABLE)
        return place(table_file(dtype), [values, rows, columns])
    return place(table_file(dtype), [_tensor(TABLE, dtype, (a.vocab_size, a.hidden_size), "copy", TABLE)])


def weights_layout(a: Architecture, dtype: str, reranker: bool = False) -> Layout:
    """Everything but the table, in the order in which a run reads it."""
    if dtype == "int8":
        return place(weights_file(dtype), [*_int8_weights(a), *_head(a, "float32", reranker)])
    return place(weights_file(dtype), [*_weights(a, dtype), *_head(a, dtype, reranker)])


def _head(a: Architecture, dtype: str, reranker: bool) -> Iterator[dict[str, Any]]:
    """The sparse head, which is zeros if the checkpoint lacks it, or a reranker's head."""
    h = a.hidden_size
    if reranker:
        yield _tensor("pair_head.pooler.weight", dtype, (h, h), "transpose", "pair_head.pooler.weight")
        yield _tensor("pair_head.pooler.bias", dtype, (h,), "copy", "pair_head.pooler.bias")
        yield _tensor("pair_head.logit.weight", dtype, (h, 1), "transpose", "pair_head.logit.weight")
        yield _tensor("pair_head.logit.bias", dtype, (1,), "copy", "pair_head.logit.bias")
        return
    yield _tensor("token_head.weight", dtype, (h, 1), "transpose_or_zeros", "token_head.weight")
    yield _tensor("token_head.bias", dtype, (1,), "transpose_or_zeros", "token_head.bias")


def outliers_layout(a: Architecture, reranker: bool = False) -> Layout:
    """Everything but the table for the form of int8 that keeps outlying channels in float32."""
    return place(OUTLIERS_FILE, [*_int8_weights(a, outliers=True), *_head(a, "float32", reranker)])


def packed_layout(a: Architecture, dtype: str, reranker: bool = False) -> Layout:
    """Everything but the table for `encoders.packed`, where up and gate are one tensor."""
    return place(packed_file(dtype), [*_packed_weights(a, dtype), *_head(a, dtype, reranker)])


def _packed_weights(a: Architecture, dtype: str) -> Iterator[dict[str, Any]]:
    h, i = a.hidden_size, a.intermediate_size
    for tensor in _weights(a, dtype):
        name = tensor["name"]
        if name == "layers.0.query.weight" and splits_in_one_kernel(a):
            yield _tensor("no_bias", dtype, (2 * i,), "zeros")
        if name.endswith(".gate.weight"):
            at = name.removesuffix(".gate.weight")
            yield _tensor(
                f"{at}.up_gate.weight", dtype, (h, 2 * i), "transpose_beside", f"{at}.up.weight", name
            )
        elif not name.endswith(".up.weight"):
            yield tensor


def _weights(a: Architecture, dtype: str) -> Iterator[dict[str, Any]]:
    h, i = a.hidden_size, a.intermediate_size
    yield _tensor("embeddings.token_type", dtype, (h,), "first_row_or_zeros", "embeddings.token_type")
    yield from _norm("embeddings.norm", dtype, h)
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
        yield from _norm(f"{at}.attention_norm", dtype, h)
        for part in ("gate", "up"):
            yield _tensor(f"{at}.{part}.weight", dtype, (h, i), "transpose", f"{at}.{part}.weight")
        yield _tensor(f"{at}.down.weight", dtype, (i, h), "transpose", f"{at}.down.weight")
        yield _tensor(f"{at}.down.bias", dtype, (h,), "copy", f"{at}.down.bias")
        yield from _norm(f"{at}.mlp_norm", dtype, h)


def _int8_weights(a: Architecture, outliers: bool = False) -> Iterator[dict[str, Any]]:
    """For `encoders.int8`, where a layer begins with the norm before it, and has it twice."""
    h, i = a.hidden_size, a.intermediate_size
    product = _parted_product if outliers else _product
    yield _tensor("embeddings.token_type", "float32", (h,), "first_row_or_zeros", "embeddings.token_type")
    for table in ("cos", "sin"):
        yield _tensor(f"rope.{table}", "float32", (a.max_positions, a.head_size // 2), f"rope_{table}")
    before = "embeddings.norm"
    for n in range(a.layers):
        at = f"layers.{n}"
        folded = (f"{at}.output.bias", f"{at}.output.weight", f"{at}.value.bias")
        yield from _norm_twice(f"{at}.attention", before, "add_folded", folded, h)
        for part in ("query", "key"):
            yield from product(f"{at}.{part}", h, h, f"{at}.attention")
            yield _tensor(f"{at}.{part}.bias", "float32", (h,), "copy", f"{at}.{part}.bias")
        yield from product(f"{at}.value", h, h, f"{at}.attention", f"{at}.mix")
        yield from product(f"{at}.output", h, h, f"{at}.mix", f"{at}.attention_norm")
        yield from _norm_twice(f"{at}.mlp", f"{at}.attention_norm", "add", (f"{at}.down.bias",), h)
        yield from product(f"{at}.gate", h, i, f"{at}.mlp")
        yield from product(f"{at}.up", h, i, f"{at}.mlp", f"{at}.product")
        yield from product(f"{at}.down", i, h, f"{at}.product", f"{at}.mlp_norm")
        if outliers:
            yield from _outliers(at, h, i)
        before = f"{at}.mlp_norm"
    for kind in ("weight", "bias"):
        yield _tensor(f"last_norm.{kind}", "float32", (h,), "copy", f"{before}.{kind}")


def _norm_twice(
    name: str, norm: str, add: str, biases: tuple[str, ...], width: int
) -> Iterator[dict[str, Any]]:
    """A norm divided by the factors of its output, and the norm plus the bias of the product to be added."""
    for kind in ("weight", "bias"):
        yield _tensor(f"{name}_input.{kind}", "float32", (width,), "divide", f"{norm}.{kind}", name)
    yield _tensor(f"{name}_residual.weight", "float32", (width,), "copy", f"{norm}.weight")
    yield _tensor(f"{name}_residual.bias", "float32", (width,), add, f"{norm}.bias", *biases)


def _product(name: str, wide: int, out: int, reads: str, *computes: str) -> Iterator[dict[str, Any]]:
    yield _tensor(f"{name}.weight", "int8", (wide, out), "quantize", f"{name}.weight", reads)
    yield _tensor(
        f"{name}.scale", "float32", (out,), "quantize_scale", f"{name}.weight", reads, *_factored(computes)
    )


def _parted_product(name: str, wide: int, out: int, reads: str, *computes: str) -> Iterator[dict[str, Any]]:
    """An int8 product without its outlying rows and columns, and the float32 weight for those."""
    beside = OUTLIERS * (2 if computes and not _factored(computes) else 1)
    for part, dtype, shape, transform in (
        ("weight", "int8", (wide, out), "quantize_inner"),
        ("scale", "float32", (out,), "quantize_inner_scale"),
        ("beside", "float32", (beside, out), "outlier_rows"),
    ):
        yield _tensor(f"{name}.{part}", dtype, shape, transform, f"{name}.weight", reads, *computes)


def _factored(computes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a product's outputs that have factors: activations, but not the norms that follow it."""
    return tuple(place for place in computes if not place.endswith("_norm"))


def _outliers(at: str, h: int, i: int) -> Iterator[dict[str, Any]]:
    """The parameters of `encoders.int8.Outliers` for each activation of a layer."""
    fine = {"mix": ("output", "attention_norm"), "product": ("down", "mlp_norm")}
    for place_, wide in {"attention": h, "mix": h, "mlp": h, "product": i}.items():
        columns = (f"{at}.{fine[place_][0]}.weight", f"{at}.{fine[place_][1]}") if place_ in fine else ()
        yield _tensor(f"{at}.outliers.{place_}.inner", "float32", (wide,), "outlier_mask", f"{at}.{place_}")
        count = OUTLIERS * (2 if columns else 1)
        yield _tensor(
            f"{at}.outliers.{place_}.select",
            "float32",
            (wide, count),
            "outlier_select",
            f"{at}.{place_}",
            *columns,
        )


def _norm(name: str, dtype: str, width: int) -> Iterator[dict[str, Any]]:
    """Weight and bias of a norm."""
    for kind in ("weight", "bias"):
        yield _tensor(f"{name}.{kind}", dtype, (width,), "copy", f"{name}.{kind}")


def _tensor(name: str, dtype: str, shape: tuple[int, ...], transform: str, *sources: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "transform": transform, "sources": sources}


def _short(dtype: str) -> str:
    return {"float16": "fp16", "float32": "fp32", "int8": "int8"}[dtype]
