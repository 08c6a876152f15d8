"""Decodes and encodes what an ONNX file uses of the protocol buffers wire format. It knows nothing of ONNX.

Specification: https://protobuf.dev/programming-guides/encoding. Every function raises ValueError for bytes
that do not follow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""

DEEPEST = 32
"""Messages inside each other. A branch of a branch of a graph is 8 deep; Google's reader refuses 100."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a kind of message."""

    wires: tuple[int, ...]
    repeated: bool = False
    kind: str = ""
    """The kind of message that it holds; empty for a number or a string."""


Schema = Mapping[str, Mapping[int, Field]]
"""{kind of message: {field number: field}}."""


Message = dict[int, list[int | bytes]]
"""{field number: its values in order}; messages inside are bytes."""

Part = tuple[int, int | bytes, int]
"""(field number, value, wire type)."""


def read(data: bytes, kind: str, schema: Schema, depth: int = 0) -> dict[str, list[Message]]:
    """Read a message and all messages in it, and return them by their kinds.

    Only fields of the schema may occur, each in its own wire type, and those that are not repeated at most
    once. Readers differ in what they do with a second value of such a field: a message is merged with the
    first, or replaces it. So a file could show one content to an inspection and another to a runtime.

    Raises:
        ValueError: naming the kind of message and the field.
    """
    if depth > DEEPEST:
        raise ValueError(f"messages are nested more than {DEEPEST} deep")
    known, own = schema[kind], Message()
    found = {kind: [own]}
    for number, value, wire in parts(data):
        field = known.get(number)
        if field is None or wire not in field.wires:
            raise ValueError(f"a {kind} has field {number} in wire type {wire}, which is not in its schema")
        values = own.setdefault(number, [])
        if values and not field.repeated:
            raise ValueError(f"field {number} stands twice in one {kind}")
        values.append(value)
        if field.kind:
            for inner, messages in read(message(value), field.kind, schema, depth + 1).items():
                found.setdefault(inner, []).extend(messages)
    return found


def values_of(data: bytes) -> Message:
    """The fields of one message."""
    found = Message()
    for number, value in fields(data):
        found.setdefault(number, []).append(value)
    return found


def all_of(parent: bytes, *wanted: int) -> list[bytes]:
    """The values of all fields of a message that have one of the given numbers, in order."""
    return [message(value) for field, value in fields(parent) if field in wanted]


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) in order: an int for a varint, bytes for every other wire type."""
    for number, value, _ in parts(data):
        yield number, value


def parts(data: bytes) -> Iterator[Part]:
    """Yield (field number, value, wire type) in order; `join` makes a message of them again."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value, wire
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, data[at : at + size], wire
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    if at < len(data) and data[at] < 0x80:  # as most numbers are
        return data[at], at + 1
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def join(fields: Iterable[Part]) -> bytes:
    """The bytes of a message with these fields, in this order."""
    return b"".join(_encoded(*part) for part in fields)


def _encoded(number: int, value: int | bytes, wire: int) -> bytes:
    key = _number(number << 3 | wire)
    if isinstance(value, int):
        return key + _number(value)
    return key + _number(len(value)) + value if wire == BYTES else key + value


def _number(value: int) -> bytes:
    """A varint."""
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def message(value: int | bytes) -> bytes:
    """A field's value as the bytes of a message or string."""
    if isinstance(value, int):
        raise ValueError("a number where a message was expected")
    return value


def text(value: int | bytes) -> str:
    """A field's value as a string."""
    return message(value).decode("utf-8")


def integer(value: int | bytes) -> int:
    """A field's value as a number."""
    if not isinstance(value, int):
        raise ValueError("a message where a number was expected")
    return value
