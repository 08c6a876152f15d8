"""Damages bytes at random and by kind: flips, cuts, splices, doubled parts, and tokens that parsers stumble
over."""

from __future__ import annotations

import random
import re

TOKENS = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-1",
    b"0",
    b"1.5",
    b"9" * 30,
    b"1" + b"0" * 5000,
    b"null",
    b"true",
    b'""',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\\u001b[2J"',
    b'"../../x"',
    b'"/etc/passwd"',
    b"[" * 2000,
    b'{"a":' * 2000,
    b"[]",
    b"{}",
    b'{"a": 1, "a": 2}',
    b"[1e5, [2]]",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x00",
    b"// x",
    b"4294967296",
    b"18446744073709551616",
    b"[[[[[[[[[[[[1]]]]]]]]]]]]",
    b'"' + b"n" * 3000 + b'"',
)
VALUE = re.compile(rb'-?\d+(?:\.\d+)?(?:e-?\d+)?|"(?:[^"\\]|\\.)*"|true|false|null')

KINDS = ("flip", "bytes", "cut", "drop", "double", "splice", "zero", "token", "value", "varint")


def damage(data: bytes, seed: int, text: bool = False) -> bytes:
    """One to three damages, decided by the seed. In a text most of them replace one of its values."""
    rng = random.Random(seed)
    kinds = ("value", *KINDS) if text else KINDS
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = _once(data, rng.choice(kinds), rng)
    return data


def _once(data: bytes, kind: str, rng: random.Random) -> bytes:
    size = len(data)
    at = rng.randrange(size + 1)
    end = min(size, at + rng.choice((1, 2, 4, 16, 300)))
    if kind == "flip" and at < size:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == "bytes":
        return data[:at] + rng.randbytes(end - at) + data[end:]
    if kind == "cut":
        return data[:at]
    if kind == "drop":
        return data[:at] + data[end:]
    if kind == "double":
        return data[:end] + data[at:end] + data[end:]
    if kind == "splice":
        other = rng.randrange(size + 1)
        return data[:at] + data[other : other + end - at] + data[end:]
    if kind == "zero":
        return data[:at] + bytes(end - at) + data[end:]
    if kind == "token":
        return data[:at] + rng.choice(TOKENS) + data[at:]
    if kind == "varint":
        return (
            data[:at] + rng.choice((b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x80" * 4 + b"\x01")) + data[end:]
        )
    if kind == "value" and (found := list(VALUE.finditer(data))):
        chosen = rng.choice(found)
        return data[: chosen.start()] + rng.choice(TOKENS) + data[chosen.end() :]
    return data
