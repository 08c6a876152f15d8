"""Changes an ONNX file field by field, so that tests can spoil one without the onnx package.

It knows the wire format of protobuf and nothing of ONNX; field numbers are those of onnx.proto.
Written apart from `gte_runtime.graph`, which it helps to test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

Value = int | bytes
Change = Callable[[Value], Value | None]

MODEL_IR, MODEL_GRAPH, MODEL_OPSET = 1, 7, 8
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_NAME, NODE_OP, NODE_DOMAIN = 3, 4, 7
TENSOR_EXTERNAL, PAIR_KEY, PAIR_VALUE = 13, 1, 2
INFO_NAME, INFO_TYPE, TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE, SHAPE_DIM, DIM_VALUE = 1, 2, 1, 1, 2, 1, 1

_LENGTHS = {1: 8, 5: 4}


def fields(message: bytes) -> Iterator[tuple[int, int, Value]]:
    """(field number, wire type, value) in order."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        wire = key & 7
        if wire == 0:
            value, at = _number(message, at)
            yield key >> 3, wire, value
            continue
        size = _LENGTHS.get(wire)
        if size is None:
            size, at = _number(message, at)
        yield key >> 3, wire, message[at : at + size]
        at += size


def message(*parts: tuple[int, Value]) -> bytes:
    """A message of numbers and byte strings."""
    return b"".join(_field(number, 0 if isinstance(value, int) else 2, value) for number, value in parts)


def edit(data: bytes, path: tuple[int, ...], change: Change) -> bytes:
    """Apply `change` to every field at `path`, such as (7, 5, 13); None drops the field.

    Lengths are made to fit.
    """
    out = []
    for number, wire, value in fields(data):
        if number != path[0]:
            out.append(_field(number, wire, value))
            continue
        changed = change(value) if len(path) == 1 else edit(bytes_of(value), path[1:], change)
        if changed is not None:
            out.append(_field(number, wire, changed))
    return b"".join(out)


def put(data: bytes, number: int, value: Value) -> bytes:
    """Set a field that stands once: replaced where it is, else added."""
    return edit(data, (number,), lambda _: None) + message((number, value))


def get(data: bytes, number: int) -> Value | None:
    return next((value for found, _, value in fields(data) if found == number), None)


def bytes_of(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return value


def set_pointer(graph: bytes, key: str, value: str) -> bytes:
    """Give every external initializer another `location`, `offset` or `length`."""

    def change(pair: Value) -> Value:
        found = bytes_of(pair)
        return put(found, PAIR_VALUE, value.encode()) if get(found, PAIR_KEY) == key.encode() else found

    return edit(graph, (MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_EXTERNAL), change)


def _field(number: int, wire: int, value: Value) -> bytes:
    key = _varint(number << 3 | wire)
    if isinstance(value, int):
        return key + _varint(value)
    return key + (_varint(len(value)) if wire == 2 else b"") + value


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
