"""Reads an ONNX graph's operators, inputs, outputs and pointers into weight files, and checks them.

The runtime does without the onnx package: this module decodes only the protobuf fields that it needs
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import BundleError
from .manifest import FileRecord
from .protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Field,
    Message,
    Schema,
    integer,
    message,
    read,
    text,
    values_of,
)

# Field numbers of onnx.proto.
MODEL_GRAPH, MODEL_OPSET = 7, 8
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_OP_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW_DATA = 1, 2, 8, 9
TENSOR_EXTERNAL_DATA, TENSOR_LOCATION = 13, 14
PAIR_KEY, PAIR_VALUE = 1, 2
VALUE_NAME = 1

_NUMBER, _NUMBERS = Field((VARINT,)), Field((VARINT, BYTES), repeated=True)  # BYTES: packed
_TEXT, _TEXTS = Field((BYTES,)), Field((BYTES,), repeated=True)


def _one(kind: str) -> Field:
    return Field((BYTES,), kind=kind)


def _many(kind: str) -> Field:
    return Field((BYTES,), repeated=True, kind=kind)


SCHEMA: Schema = {
    "ModelProto": {
        1: _NUMBER, 2: _TEXT, 3: _TEXT, 4: _TEXT, 5: _NUMBER, 6: _TEXT, 7: _one("GraphProto"),
        8: _many("OperatorSetIdProto"), 14: _many("StringStringEntryProto"),
    },
    "OperatorSetIdProto": {1: _TEXT, 2: _NUMBER},
    "StringStringEntryProto": {1: _TEXT, 2: _TEXT},
    "GraphProto": {
        1: _many("NodeProto"), 2: _TEXT, 5: _many("TensorProto"), 10: _TEXT, 11: _many("ValueInfoProto"),
        12: _many("ValueInfoProto"), 13: _many("ValueInfoProto"), 15: _many("SparseTensorProto"),
        16: _many("StringStringEntryProto"),
    },
    "NodeProto": {
        1: _TEXTS, 2: _TEXTS, 3: _TEXT, 4: _TEXT, 5: _many("AttributeProto"), 6: _TEXT, 7: _TEXT, 8: _TEXT,
        9: _many("StringStringEntryProto"),
    },
    "AttributeProto": {
        1: _TEXT, 2: Field((FIXED32,)), 3: _NUMBER, 4: _TEXT, 5: _one("TensorProto"), 6: _one("GraphProto"),
        7: Field((FIXED32, BYTES), repeated=True), 8: _NUMBERS, 9: _TEXTS, 10: _many("TensorProto"),
        11: _many("GraphProto"), 13: _TEXT, 20: _NUMBER, 21: _TEXT, 22: _one("SparseTensorProto"),
        23: _many("SparseTensorProto"),
    },
    "TensorProto": {
        1: _NUMBERS, 2: _NUMBER, 4: Field((FIXED32, BYTES), repeated=True), 5: _NUMBERS, 6: _TEXTS,
        7: _NUMBERS, 8: _TEXT, 9: _TEXT, 10: Field((FIXED64, BYTES), repeated=True), 11: _NUMBERS, 12: _TEXT,
        13: _many("StringStringEntryProto"), 14: _NUMBER, 16: _many("StringStringEntryProto"),
    },
    "SparseTensorProto": {1: _one("TensorProto"), 2: _one("TensorProto"), 3: _NUMBERS},
    "ValueInfoProto": {1: _TEXT, 2: _one("TypeProto"), 3: _TEXT, 4: _many("StringStringEntryProto")},
    "TypeProto": {1: _one("TypeProto.Tensor"), 6: _TEXT},
    "TypeProto.Tensor": {1: _NUMBER, 2: _one("TensorShapeProto")},
    "TensorShapeProto": {1: _many("Dimension")},
    "Dimension": {1: _NUMBER, 2: _TEXT, 3: _TEXT},
}  # fmt: skip
"""The messages of onnx.proto and their fields, without those that no graph of ours has and that could hold
what is not inspected: functions, training information, quantization annotations, settings of several devices,
types other than tensors. A file with other fields is refused, so ORT runs only what was inspected."""

DECIMAL = re.compile(r"-?[0-9]{1,19}")

OPERATORS = {
    "Abs", "Add", "Cast", "Clip", "Concat", "Constant", "Div", "Gather", "Gelu", "If",
    "LayerNormalization", "MatMul", "Mod", "Mul", "QuantizeLinear", "ReduceMax", "Relu", "Reshape",
    "Shape", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze",
    "com.microsoft::BiasSplitGelu", "com.microsoft::MatMulIntegerToFloat",
    "com.microsoft::MultiHeadAttention", "com.microsoft::PackedMultiHeadAttention",
    "com.microsoft::RotaryEmbedding", "com.microsoft::SkipLayerNormalization",
}  # fmt: skip
"""The operators that the graphs of this family consist of. A bundle may come from an untrusted source, so
others are refused: some load compiled device code (EPContext), some can loop for ever, some quantize a whole
tensor, which would make a text's result depend on the other texts in its batch."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """A tensor whose values are in a weight file, `length` bytes at `offset`."""

    name: str
    file: str
    offset: int
    length: int
    element: int = 0
    """The type of its values, a number of TensorProto.DataType."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a graph needs to run, as far as it can be read without running it."""

    operators: tuple[str, ...]
    """Sorted, unique, those of subgraphs included; `domain::Type` outside the standard domain."""
    opsets: dict[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pointers: tuple[Pointer, ...]
    largest_inside: int
    """Bytes of the largest tensor whose values are in the graph itself."""


def inspect_graph(data: bytes, name: str) -> GraphFacts:
    """Read an ONNX model.

    Args:
        data: the file's bytes.
        name: the file's name, for errors.

    Raises:
        BundleError: the bytes are not an ONNX model, or hold a field that is not in SCHEMA or stands twice.
    """
    try:
        return _inspect(data)
    except ValueError as error:
        raise BundleError(f"{name}: not an ONNX graph: {str(error)[:120]}") from None
    except MemoryError:
        raise BundleError(f"{name}: not enough memory to read it") from None


def check_pointers(
    facts: GraphFacts, graph: str, weights: tuple[str, ...], files: Mapping[str, FileRecord]
) -> None:
    """Check that a graph points only into its own weight files, and that each ends with its last tensor.

    Args:
        facts: what `inspect_graph` found.
        graph: the graph's name, for errors.
        weights: the weight files that the manifest names for it.
        files: size and hash of each file of the bundle.

    Raises:
        BundleError: naming the graph and the file.
    """
    ends = dict.fromkeys(weights, 0)
    for pointer in facts.pointers:
        if pointer.file not in weights:
            raise BundleError(f"{graph} reads {pointer.file[:80]!r}, which is none of its weight files")
        end = pointer.offset + pointer.length
        if min(pointer.offset, pointer.length) < 0 or end > files[pointer.file].size:
            raise BundleError(f"{graph}: {pointer.name[:80]} lies outside of {pointer.file}")
        ends[pointer.file] = max(ends[pointer.file], end)
    for file, end in ends.items():
        if files[file].size != end:
            raise BundleError(
                f"{file} has {files[file].size} bytes, the last tensor that {graph} reads ends at "
                f"byte {end}; they do not belong together"
            )


def check_operators(facts: GraphFacts, graph: str) -> None:
    """Check that a graph holds only OPERATORS.

    Raises:
        BundleError: naming an operator that is not one of them.
    """
    if odd := sorted(set(facts.operators) - OPERATORS):
        raise BundleError(
            f"{graph} holds the operator {odd[0][:80]}, which this version of gte-runtime does not run; "
            "upgrade it, or do not trust the bundle"
        )


def _inspect(data: bytes) -> GraphFacts:
    found = read(data, "ModelProto", SCHEMA)
    (model,) = found["ModelProto"]
    if MODEL_GRAPH not in model:
        raise ValueError("it holds no graph")
    graph = values_of(message(model[MODEL_GRAPH][0]))
    tensors, opsets = found.get("TensorProto", []), found.get("OperatorSetIdProto", [])
    if len(opsets) != len({_text(entry, OPSET_DOMAIN) for entry in opsets}):
        raise ValueError("it names the version of one domain twice")
    return GraphFacts(
        operators=tuple(sorted({operator(node) for node in found.get("NodeProto", [])})),
        opsets={_text(entry, OPSET_DOMAIN): integer(entry.get(OPSET_VERSION, [0])[0]) for entry in opsets},
        inputs=_names(graph, GRAPH_INPUT),
        outputs=_names(graph, GRAPH_OUTPUT),
        pointers=tuple(p for tensor in tensors if (p := pointer(tensor)) is not None),
        largest_inside=max(
            (len(message(raw)) for tensor in tensors for raw in tensor.get(TENSOR_RAW_DATA, [])), default=0
        ),
    )


def operator(node: Message) -> str:
    """The name of a NodeProto's operator, as in `GraphFacts.operators`."""
    domain, kind = _text(node, NODE_DOMAIN), _text(node, NODE_OP_TYPE, b"?")
    return f"{domain}::{kind}" if domain else kind


def pointer(tensor: Message) -> Pointer | None:
    """Where a TensorProto's values are; None where they are in the graph itself."""
    pairs: dict[str, str] = {}
    for pair in map(values_of, map(message, tensor.get(TENSOR_EXTERNAL_DATA, []))):
        key = _text(pair, PAIR_KEY)
        if key in pairs or key not in ("location", "offset", "length"):
            raise ValueError(f"a pointer with the key {key[:40]!r}, twice or unknown")
        pairs[key] = _text(pair, PAIR_VALUE)
    if not pairs and not any(map(integer, tensor.get(TENSOR_LOCATION, []))):
        return None
    for key in ("offset", "length"):
        if key in pairs and not DECIMAL.fullmatch(pairs[key]):
            raise ValueError(f"a pointer with the {key} {pairs[key][:40]!r}")
    return Pointer(
        _text(tensor, TENSOR_NAME),
        pairs.get("location", ""),
        int(pairs.get("offset", 0)),
        int(pairs.get("length", -1)),
        integer(tensor.get(TENSOR_TYPE, [0])[0]),
    )


def _names(graph: Message, field: int) -> tuple[str, ...]:
    return tuple(_text(values_of(message(value)), VALUE_NAME) for value in graph.get(field, []))


def _text(values: Message, field: int, absent: bytes = b"") -> str:
    return text(values.get(field, [absent])[0])
