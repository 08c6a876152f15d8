"""Reads an ONNX graph's operators, inputs, outputs and pointers into weight files, and checks them.

The runtime does without the onnx package: this module decodes only the protobuf fields that it needs
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import BundleError
from .manifest import FileRecord
from .protobuf import all_of, fields, integer, message, text

# Field numbers of onnx.proto.
MODEL_GRAPH, MODEL_OPSET, MODEL_FUNCTIONS = 7, 8, 25
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 1, 5, 11, 12, 15
NODE_OP_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 5, 6, 10, 11
ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES = 22, 23
SPARSE_VALUES, SPARSE_INDICES = 1, 2
TENSOR_NAME, TENSOR_RAW_DATA, TENSOR_EXTERNAL_DATA, TENSOR_LOCATION = 8, 9, 13, 14
PAIR_KEY, PAIR_VALUE = 1, 2
VALUE_NAME = 1

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
        BundleError: the bytes are not an ONNX model, or one with functions.
    """
    try:
        return _inspect(data)
    except ValueError as error:
        raise BundleError(f"{name}: not an ONNX graph: {str(error)[:120]}") from None
    except RecursionError:
        raise BundleError(f"{name}: not an ONNX graph: its branches are nested without end") from None


def check_pointers(
    facts: GraphFacts, graph: str, weights: tuple[str, ...], files: Mapping[str, FileRecord]
) -> None:
    """Check that a graph points only into its own weight files, and inside their bounds.

    Args:
        facts: what `inspect_graph` found.
        graph: the graph's name, for errors.
        weights: the weight files that the manifest names for it.
        files: size and hash of each file of the bundle.

    Raises:
        BundleError: naming the graph and the file.
    """
    for pointer in facts.pointers:
        if pointer.file not in weights:
            raise BundleError(f"{graph} reads {pointer.file[:80]!r}, which is none of its weight files")
        if (
            pointer.offset < 0
            or pointer.length < 0
            or pointer.offset + pointer.length > files[pointer.file].size
        ):
            raise BundleError(f"{graph}: {pointer.name[:80]} lies outside of {pointer.file}")


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
    graph: bytes | None = None
    opsets: dict[str, int] = {}
    for field, value in fields(data):
        if field == MODEL_GRAPH:
            graph = message(value)
        elif field == MODEL_FUNCTIONS:
            raise ValueError("it holds functions, which are not implemented")
        elif field == MODEL_OPSET:
            entry = dict(fields(message(value)))
            opsets[text(entry.get(OPSET_DOMAIN, b""))] = integer(entry.get(OPSET_VERSION, 0))
    if graph is None:
        raise ValueError("it holds no graph")
    parts = list(_graphs(graph))
    tensors = [tensor for part in parts for tensor in _tensors(part)]
    pointers = tuple(p for t in tensors if (p := pointer(t)) is not None)
    return GraphFacts(
        operators=tuple(sorted({operator(node) for part in parts for node in all_of(part, GRAPH_NODE)})),
        opsets=opsets,
        inputs=_names(graph, GRAPH_INPUT),
        outputs=_names(graph, GRAPH_OUTPUT),
        pointers=pointers,
        largest_inside=max((len(raw) for t in tensors for raw in all_of(t, TENSOR_RAW_DATA)), default=0),
    )


def _graphs(graph: bytes) -> Iterator[bytes]:
    """A graph and its subgraphs, which are attributes of nodes (the branches of an `If`)."""
    yield graph
    for attribute in _attributes(graph):
        for inner in all_of(attribute, ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
            yield from _graphs(inner)


def _tensors(graph: bytes) -> Iterator[bytes]:
    """All tensors of one graph: initializers, sparse ones included, and attributes of nodes."""
    yield from all_of(graph, GRAPH_INITIALIZER)
    sparse = all_of(graph, GRAPH_SPARSE)
    for attribute in _attributes(graph):
        yield from all_of(attribute, ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS)
        sparse += all_of(attribute, ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES)
    for tensor in sparse:
        yield from all_of(tensor, SPARSE_VALUES, SPARSE_INDICES)


def _attributes(graph: bytes) -> Iterator[bytes]:
    for node in all_of(graph, GRAPH_NODE):
        yield from all_of(node, NODE_ATTRIBUTE)


def operator(node: bytes) -> str:
    """The name of a NodeProto's operator, as in `GraphFacts.operators`."""
    found = dict(fields(node))
    domain, kind = (
        text(found.get(NODE_DOMAIN, b"")),
        text(found[NODE_OP_TYPE]) if NODE_OP_TYPE in found else "?",
    )
    return f"{domain}::{kind}" if domain else kind


def pointer(tensor: bytes) -> Pointer | None:
    """Where a TensorProto's values are; None where they are in the graph itself."""
    pairs = {}
    for pair in all_of(tensor, TENSOR_EXTERNAL_DATA):
        found = dict(fields(pair))
        pairs[text(found.get(PAIR_KEY, b""))] = text(found.get(PAIR_VALUE, b""))
    if not pairs and not any(integer(v) for f, v in fields(tensor) if f == TENSOR_LOCATION):
        return None
    name = next((text(v) for f, v in fields(tensor) if f == TENSOR_NAME), "")
    return Pointer(
        name, pairs.get("location", ""), int(pairs.get("offset", "0")), int(pairs.get("length", "-1"))
    )


def _names(graph: bytes, field: int) -> tuple[str, ...]:
    return tuple(text(dict(fields(value)).get(VALUE_NAME, b"")) for value in all_of(graph, field))
