"""The wire format of protocol buffers, against a writer of its own."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.format.protobuf import all_of, fields, integer, join, message, parts, text

numbers = st.integers(1, 2**20)
values = st.integers(0, 2**64 - 1) | st.binary(max_size=300)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def written(parts: list[tuple[int, Any]]) -> bytes:
    return b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in parts
    )


fixed = st.tuples(numbers, st.binary(min_size=4, max_size=4), st.just(5)) | st.tuples(
    numbers, st.binary(min_size=8, max_size=8), st.just(1)
)


@given(
    st.lists(fixed | st.tuples(numbers, st.integers(0, 2**64 - 1), st.just(0))),
    st.lists(st.tuples(numbers, values)),
)
def test_what_is_joined_is_what_was_parted(others: list[Any], plain: list[tuple[int, Any]]):
    """Byte for byte, in every wire type, and as the writer of this test writes it."""
    assert list(parts(join(others))) == others
    data = written(plain)
    assert join(parts(data)) == data


@given(st.lists(st.tuples(numbers, values)))
def test_what_is_written_is_read(parts: list[tuple[int, Any]]):
    """Numbers and byte strings, in order; all messages of some fields, in order."""
    assert list(fields(written(parts))) == parts
    messages = [(number, value) for number, value in parts if isinstance(value, bytes)]
    for chosen in {number for number, _ in messages}:
        assert all_of(written(messages), chosen) == [v for number, v in messages if number == chosen]


def test_fixed_sizes():
    """Eight and four bytes."""
    data = varint(1 << 3 | 1) + struct.pack("<d", 1.5) + varint(2 << 3 | 5) + struct.pack("<f", 2.5)
    assert list(fields(data)) == [(1, struct.pack("<d", 1.5)), (2, struct.pack("<f", 2.5))]


@given(st.lists(st.tuples(numbers, values), min_size=1))
def test_a_cut_message(parts: list[tuple[int, Any]]):
    """Cut within its last field it is refused, at whichever byte."""
    whole, before = written(parts), written(parts[:-1])
    for end in range(len(before) + 1, len(whole)):
        with pytest.raises(ValueError, match="it ends in the middle"):
            list(fields(whole[:end]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes([1 << 3 | 3]), "wire type 3"),
        (bytes([1 << 3 | 4]), "wire type 4"),
        (bytes([8]) + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (bytes([8]) + b"\xff" * 3, "middle of a number"),
        (bytes([10, 5]) + b"abc", "middle of a field"),
    ],
)
def test_what_is_refused(data: bytes, words: str):
    """Groups, which nobody writes any more, numbers without end, and fields beyond the end."""
    with pytest.raises(ValueError, match=words):
        list(fields(data))


def test_kinds_of_values():
    """A number where text was expected, and the other way round."""
    assert (text(b"caf\xc3\xa9"), message(b"x"), integer(7)) == ("café", b"x", 7)
    for wrong in (lambda: text(7), lambda: message(7), lambda: integer(b"7")):
        with pytest.raises(ValueError, match="was expected"):
            wrong()
    with pytest.raises(UnicodeDecodeError):
        text(b"\xff")
