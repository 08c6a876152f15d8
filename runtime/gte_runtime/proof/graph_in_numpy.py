"""The graph evaluator: runs a graph operator by operator in numpy, slowly and on any machine.

The graph of `cuda-fp16` has operators without a CPU kernel, and bundles are built on machines without a GPU.
So it is checked here. Every operator is written from its documentation; it computes in float32 and rounds its
result once, to the type in the graph, as the CUDA kernels do. Weights are read from the weight files through
the pointers in the graph.

Documentation: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md and
https://onnx.ai/onnx/operators/. Only the operators of packed graphs are here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import erf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, Cancelled, GteError
from ..format.graph import (
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    TENSOR_DIMS,
    TENSOR_NAME,
    TENSOR_RAW_DATA,
    TENSOR_TYPE,
    VALUE_NAME,
    operator,
    pointer,
)
from ..format.protobuf import all_of, fields, integer, message, text, values_of
from ..inference.batch import Batch, packed_inputs
from ..inference.session import NOTHING, Outputs, Share

Array = NDArray[Any]

NODE_INPUT, NODE_OUTPUT = 1, 2
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_TENSOR, ATTRIBUTE_INTS, ATTRIBUTE_KIND = (
    1,
    2,
    3,
    5,
    8,
    20,
)
DTYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16}


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of a graph."""

    operator: str
    """Name, after its domain and "::" where that is not ONNX's own."""
    inputs: tuple[str, ...]
    """An empty name is an optional input that is absent."""
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Evaluator:
    """One graph, run as its file says: names, pointers to weights, attributes."""

    def __init__(self, graph: bytes, folder: Path) -> None:
        """Read a graph and its weights. Raises BundleError for an operator that is not implemented here."""
        body = next(message(value) for field, value in fields(graph) if field == MODEL_GRAPH)
        self._nodes = [_node(node) for node in all_of(body, GRAPH_NODE)]
        self._weights = dict(_initializer(tensor, folder) for tensor in all_of(body, GRAPH_INITIALIZER))
        self._outputs = [text(dict(fields(value))[VALUE_NAME]) for value in all_of(body, GRAPH_OUTPUT)]
        for node in self._nodes:
            if node.operator not in KERNELS:
                raise BundleError(f"the operator {node.operator} cannot be evaluated without its device")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name."""
        values: dict[str, Any] = {"": None, **self._weights, **feeds}
        for node in self._nodes:
            results = KERNELS[node.operator](node, *(values[name] for name in node.inputs))
            values.update(
                zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=True)
            )
        return {name: values[name] for name in self._outputs}


class NumpySession:
    """A `Session` on the evaluator."""

    provider = "cpu"
    workers = 1

    def __init__(self, graph: bytes, folder: Path) -> None:
        with _told():
            self._evaluator: Evaluator | None = Evaluator(graph, folder)

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        if self._evaluator is None:
            raise Cancelled("this engine is closed")
        with _told():
            found = self._evaluator.run(packed_inputs(batch))
        given = found["token_states"][0].astype(np.float32) if states else NOTHING
        cls, weights, logits = (found.get(name, NOTHING) for name in ("cls", "token_weights", "logits"))
        return Outputs(cls, weights, logits, given)

    def stop(self, owner: object) -> None:
        """Does nothing: these runs cannot be interrupted."""

    def close(self) -> None:
        self._evaluator = None


@contextmanager
def _told() -> Iterator[None]:
    """Turn what numpy and Python raise for a graph that does not fit together into a BundleError."""
    try:
        yield
    except GteError:
        raise
    except (
        ArithmeticError,
        LookupError,
        MemoryError,
        OSError,
        StopIteration,
        TypeError,
        ValueError,
    ) as error:
        raise BundleError(f"the graph cannot be evaluated: {str(error)[:120]}") from None
    except struct.error:
        raise BundleError("the graph cannot be evaluated: an attribute of another size") from None


def _node(data: bytes) -> Node:
    return Node(
        operator=operator(values_of(data)),
        inputs=tuple(text(name) for name in all_of(data, NODE_INPUT)),
        outputs=tuple(text(name) for name in all_of(data, NODE_OUTPUT)),
        attributes=dict(_attribute(attribute) for attribute in all_of(data, NODE_ATTRIBUTE)),
    )


def _attribute(data: bytes) -> tuple[str, Any]:
    found = dict(fields(data))
    kind = integer(found[ATTRIBUTE_KIND])
    value: Any = None  # packed graphs have no attributes of other kinds
    if kind == 1:
        value = struct.unpack("<f", message(found[ATTRIBUTE_FLOAT]))[0]
    elif kind == 2:
        value = _signed(integer(found.get(ATTRIBUTE_INT, 0)))
    elif kind == 4:
        value = _tensor(message(found[ATTRIBUTE_TENSOR]))
    elif kind == 7:
        value = [_signed(integer(v)) for f, v in fields(data) if f == ATTRIBUTE_INTS]
    return text(found[ATTRIBUTE_NAME]), value


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _tensor(data: bytes) -> Array:
    found = dict(fields(data))
    raw = message(found.get(TENSOR_RAW_DATA, b""))
    return np.frombuffer(raw, _dtype(found)).reshape(_dims(data))


def _initializer(data: bytes, folder: Path) -> tuple[str, Array]:
    found, place = dict(fields(data)), pointer(values_of(data))
    name = text(found[TENSOR_NAME])
    if place is None:
        return name, _tensor(data)
    dims = _dims(data)
    with (folder / place.file).open("rb") as file:
        file.seek(0, os.SEEK_END)
        if place.offset + place.length > file.tell():
            raise BundleError(f"{name[:80]} lies outside of {place.file}")
    # Mapped, so that only the rows that are used are read: the embedding table alone takes half a gigabyte.
    return name, np.memmap(folder / place.file, _dtype(found), "r", place.offset, tuple(dims))


def _dims(data: bytes) -> list[int]:
    return [integer(value) for field, value in fields(data) if field == TENSOR_DIMS]


def _dtype(found: Mapping[int, int | bytes]) -> Any:
    return DTYPES[integer(found[TENSOR_TYPE])]


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _rounded(value: Array, like: Array) -> Array:
    """The result of an operator, rounded to the type of its input."""
    return value.astype(like.dtype)


def _add(node: Node, a: Array, b: Array) -> Array:
    return _rounded(_wide(a) + _wide(b), a)


def _mul(node: Node, a: Array, b: Array) -> Array:
    return _rounded(_wide(a) * _wide(b), a)


def _matmul(node: Node, a: Array, b: Array) -> Array:
    return _rounded(_wide(a) @ _wide(b), a)


def _cast(node: Node, x: Array) -> Array:
    return x.astype(DTYPES[node.attributes["to"]])


def _constant(node: Node) -> Array:
    value: Array = node.attributes["value"]
    return value


def _gather(node: Node, table: Array, index: Array) -> Array:
    axis = node.attributes.get("axis", 0)
    rows = table.shape[axis]
    if index.size and not -rows <= index.min() <= index.max() < rows:
        raise IndexError(f"an index of {index.min()} to {index.max()} into {rows} rows")
    return np.asarray(table.take(index, axis=axis))


def _gelu(node: Node, x: Array) -> Array:
    return _rounded(_exact_gelu(_wide(x)), x)


def _relu(node: Node, x: Array) -> Array:
    return np.asarray(np.maximum(x, x.dtype.type(0)))


def _reshape(node: Node, x: Array, shape: Array) -> Array:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape.tolist())])


def _slice(
    node: Node, x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None
) -> Array:
    cut = [slice(None)] * x.ndim
    of = range(len(starts)) if axes is None else axes.tolist()
    by = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(of, starts.tolist(), ends.tolist(), by, strict=True):
        cut[axis] = slice(start, end, step)
    return x[tuple(cut)]


def _split(node: Node, x: Array, sizes: Array | None = None) -> tuple[Array, ...]:
    axis = node.attributes.get("axis", 0)
    if sizes is None:
        return tuple(np.split(x, len(node.outputs), axis))
    return tuple(np.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


def _tanh(node: Node, x: Array) -> Array:
    return _rounded(np.tanh(_wide(x)), x)


def _unsqueeze(node: Node, x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(axes.tolist()))


def _layer_normalization(node: Node, x: Array, weight: Array, bias: Array) -> Array:
    return _rounded(_normalised(_wide(x), weight, bias, node.attributes["epsilon"]), x)


def _skip_layer_normalization(
    node: Node, x: Array, skip: Array, weight: Array, beta: Array, bias: Array
) -> Array:
    total = _wide(x) + _wide(skip) + _wide(bias)
    return _rounded(_normalised(total, weight, beta, node.attributes["epsilon"]), x)


def _bias_split_gelu(node: Node, x: Array, bias: Array) -> Array:
    """left x gelu(right), where left and right are the halves of x + bias."""
    if x.shape[-1] not in SPLIT_GELU_WIDTHS:
        raise ValueError(f"BiasSplitGelu has no kernel for a width of {x.shape[-1]}")
    left, right = np.split(_wide(x) + _wide(bias), 2, -1)
    return _rounded(left * _exact_gelu(right), x)


def _rotary_embedding(node: Node, x: Array, positions: Array, cos: Array, sin: Array) -> Array:
    """RoPE: dimension i of a head is paired with i + d/2. The kernel computes in the type of its input."""
    heads = node.attributes["num_heads"]
    if positions.size and not 0 <= positions.min() <= positions.max() < len(cos):
        raise IndexError(f"positions of {positions.min()} to {positions.max()}, the table has {len(cos)}")
    first, second = np.split(x.reshape(*x.shape[:-1], heads, -1), 2, -1)
    c, s = cos[positions][..., None, :], sin[positions][..., None, :]
    return np.concatenate([first * c - second * s, second * c + first * s], -1).reshape(x.shape)


def _packed_attention(
    node: Node, query: Array, key: Array, value: Array, bias: Array | None, token_offset: Array, bounds: Array
) -> Array:
    """Each text attends to itself. The kernel does not write rows after the last bound; here they are NaN."""
    heads, width = node.attributes["num_heads"], query.shape[-1]
    if query.ndim != 2 or query.shape != key.shape or bias is not None:
        raise ValueError(
            f"PackedMultiHeadAttention of query {query.shape}, key {key.shape}, "
            f"with{'out' * (bias is None)} bias"
        )
    texts, longest = token_offset.shape
    if (
        bounds.shape != (texts + 1,)
        or (lengths := np.diff(bounds)).min() < 0
        or lengths.max() > longest
        or bounds[-1] > len(query)
    ):
        raise ValueError(
            f"bounds {bounds.tolist()} do not fit {len(query)} tokens in {texts} texts of at most {longest}"
        )
    out = np.full(query.shape, np.nan, np.float32)
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        q, k, v = (
            _wide(x[start:end]).reshape(end - start, heads, width // heads).transpose(1, 0, 2)
            for x in (query, key, value)
        )
        scores = q @ k.transpose(0, 2, 1) / np.float32(sqrt(width // heads))
        raised = np.exp(scores - scores.max(-1, keepdims=True, initial=-np.inf))
        mixed = raised @ v / raised.sum(-1, keepdims=True)
        out[start:end] = mixed.transpose(1, 0, 2).reshape(end - start, width)
    return _rounded(out, query)


def _normalised(x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    result: Array = centred / np.sqrt(variance + np.float32(epsilon)) * _wide(weight) + _wide(bias)
    return result


_erf = np.frompyfunc(erf, 1, 1)


def _exact_gelu(x: Array) -> Array:
    error = np.asarray(_erf(x / np.float32(sqrt(2))), np.float32)
    result: Array = np.float32(0.5) * x * (1 + error)
    return result


SPLIT_GELU_WIDTHS = (2560, 5120, 6144, 10240, 12288)
"""Sizes of the last dimension for which BiasSplitGelu has a kernel, in onnxruntime-gpu 1.27 to 1.31."""

KERNELS: dict[str, Callable[..., Any]] = {
    "Add": _add,
    "Cast": _cast,
    "Constant": _constant,
    "Gather": _gather,
    "Gelu": _gelu,
    "LayerNormalization": _layer_normalization,
    "MatMul": _matmul,
    "Mul": _mul,
    "Relu": _relu,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Tanh": _tanh,
    "Unsqueeze": _unsqueeze,
    "com.microsoft::BiasSplitGelu": _bias_split_gelu,
    "com.microsoft::PackedMultiHeadAttention": _packed_attention,
    "com.microsoft::RotaryEmbedding": _rotary_embedding,
    "com.microsoft::SkipLayerNormalization": _skip_layer_normalization,
}
