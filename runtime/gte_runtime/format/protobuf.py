"""Decodes as much of the protocol buffers wire format as an ONNX file uses. It knows nothing of ONNX.

Specification: https://protobuf.dev/programming-guides/encoding. Every function raises ValueError for bytes
that do not follow it.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""


def all_of(parent: bytes, *wanted: int) -> list[bytes]:
    """The values of all fields of a message that have one of the given numbers, in order."""
    return [message(value) for field, value in fields(parent) if field in wanted]


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) in order: an int for a varint, bytes for every other wire type."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
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
