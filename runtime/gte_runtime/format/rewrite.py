"""Changes a traced graph where a build needs another one than was traced. Bytes in, bytes out.

A trace cannot know which products of a checkpoint must stay in float32 (`building.kept` decides it). So the
build replaces single nodes and points the initializers to where the changed layouts put them. Nothing else of
the graph changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ..errors import BundleError
from .graph import (
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    MODEL_GRAPH,
    NODE_DOMAIN,
    NODE_OP_TYPE,
    PAIR_KEY,
    PAIR_VALUE,
    TENSOR_DIMS,
    TENSOR_EXTERNAL_DATA,
    TENSOR_NAME,
    TENSOR_TYPE,
)
from .layout import Layout, Tensor
from .protobuf import BYTES, VARINT, Part, join, message, parts, text, values_of

NODE_INPUT, NODE_OUTPUT, NODE_NAME = 1, 2, 3
ELEMENT = {"float32": 1, "int8": 3, "float16": 10}
"""Numbers of TensorProto.DataType."""

INT8_PRODUCT = "MatMulIntegerToFloat"


@dataclass(frozen=True, slots=True)
class _Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def rewrite(data: bytes, layouts: Mapping[str, Layout], in_float: Collection[str] = ()) -> bytes:
    """A graph whose initializers are those of `layouts`, and some of whose int8 products are in float32.

    Args:
        data: a graph in which every initializer is in a weight file.
        layouts: {weight file: its layout}. An initializer that is in none of them is left out.
        in_float: products by the names of their weights without `.weight`, such as `layers.0.down`.

    Raises:
        BundleError: the graph has not the form that `gte-export` traces.
    """
    places = {tensor.name: (layout.file, tensor) for layout in layouts.values() for tensor in layout.tensors}
    try:
        return join(
            (number, _graph(message(value), places, set(in_float)), wire) if number == MODEL_GRAPH else part
            for part in parts(data)
            for number, value, wire in [part]
        )
    except (KeyError, IndexError, ValueError) as error:
        raise BundleError(f"the graph has another form than the exporter traces: {error!s:.120}") from None


def _graph(data: bytes, places: Mapping[str, tuple[str, Tensor]], in_float: set[str]) -> bytes:
    nodes = [_node(message(value)) for number, value, _ in parts(data) if number == GRAPH_NODE]
    makers = {output: node for node in nodes for output in node.outputs}
    return join(_parts(data, places, {f"{name}.weight" for name in in_float}, makers))


def _parts(
    data: bytes, places: Mapping[str, tuple[str, Tensor]], in_float: set[str], makers: Mapping[str, _Node]
) -> Iterator[Part]:
    left = set(in_float)
    for part in parts(data):
        number, value, wire = part
        if number == GRAPH_INITIALIZER:
            name = text(values_of(message(value))[TENSOR_NAME][0])
            if name in places:
                yield number, _initializer(message(value), *places[name]), wire
            continue
        node = _node(message(value)) if number == GRAPH_NODE else None
        if node is None or node.kind != INT8_PRODUCT or node.inputs[1] not in in_float:
            yield part
            continue
        left.remove(node.inputs[1])
        for made in _product(node, makers):
            yield GRAPH_NODE, made, BYTES
    if left:
        raise ValueError(f"it has no int8 product with {min(left)}")


def _product(node: _Node, makers: Mapping[str, _Node]) -> Iterator[bytes]:
    """The nodes in place of an int8 product. Its result lacks the scale of each row, by which later nodes
    multiply, so the float32 product is divided by it."""
    rounded = makers[node.inputs[0]]
    scale = rounded.inputs[1]
    while makers[scale].kind != "Clip":  # the scales are reshaped and made steps before they are used
        scale = makers[scale].inputs[0]
    (output,) = node.outputs
    yield _new_node("MatMul", (rounded.inputs[0], node.inputs[1]), f"{output}/unscaled")
    yield _new_node("Div", (f"{output}/unscaled", scale), output)


def _new_node(kind: str, inputs: tuple[str, ...], output: str) -> bytes:
    fields: list[Part] = [(NODE_INPUT, name.encode(), BYTES) for name in inputs]
    fields += [(NODE_OUTPUT, output.encode(), BYTES), (NODE_NAME, f"{output}/{kind}".encode(), BYTES)]
    return join([*fields, (NODE_OP_TYPE, kind.encode(), BYTES)])


def _initializer(data: bytes, file: str, tensor: Tensor) -> bytes:
    kept = [part for part in parts(data) if part[0] not in (TENSOR_DIMS, TENSOR_TYPE, TENSOR_EXTERNAL_DATA)]
    dims: list[Part] = [(TENSOR_DIMS, size, VARINT) for size in tensor.shape]
    pairs = {"location": file, "offset": f"{tensor.offset}", "length": f"{tensor.size}"}
    external: list[Part] = [
        (
            TENSOR_EXTERNAL_DATA,
            join([(PAIR_KEY, key.encode(), BYTES), (PAIR_VALUE, value.encode(), BYTES)]),
            BYTES,
        )
        for key, value in pairs.items()
    ]
    return join([*dims, (TENSOR_TYPE, ELEMENT[tensor.dtype], VARINT), *kept, *external])


def _node(data: bytes) -> _Node:
    values = values_of(data)
    domain = text(values.get(NODE_DOMAIN, [b""])[0])
    kind = text(values[NODE_OP_TYPE][0])
    return _Node(
        kind if domain in ("", "com.microsoft") else f"{domain}::{kind}",
        tuple(map(text, values.get(NODE_INPUT, []))),
        tuple(map(text, values.get(NODE_OUTPUT, []))),
    )
