"""JSON from files of unknown origin, and parsed values with checked types and bounds. Pure.

Python's own reader accepts what the formats forbid or leave open: duplicate keys, NaN and Infinity, other
encodings than UTF-8. Two readers of such a file could see different contents, so they are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, is_dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from math import isfinite
from reprlib import Repr
from typing import Any, get_args, get_origin, get_type_hints

Bounds = Mapping[tuple[type, str], tuple[float, float]]
"""{(dataclass, field): (least, most)}, both included, for each number of the field."""

SHOWN = 80
"""Characters of a value in an error message."""


def parse_json(data: bytes) -> Any:
    """Parse JSON in UTF-8.

    Raises:
        ValueError: another encoding, not JSON, a duplicate key, a number that is not finite, nested too deep,
            or too large for the memory.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None
    except MemoryError:
        raise ValueError("it needs more memory than there is") from None


def shown(value: object) -> str:
    """The beginning of a parsed value for an error message. The time that it takes is bounded."""
    return _shorten.repr(value)[:SHOWN]


def read_as(kind: Any, raw: Any, at: str = "", bounds: Bounds | None = None) -> Any:
    """Convert a parsed value to a type of the format, and check every type and number in it.

    Args:
        kind: a dataclass, or the type of one of its fields.
        raw: the value, from JSON or TOML.
        at: the path to it, for errors: empty, or ending with a dot.
        bounds: of the numbers in dataclasses. Integers are never negative, whatever these are.

    Raises:
        ValueError: naming the field that is missing, unknown, of another type or out of bounds.
    """
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(raw, dict):
        return _read_fields(kind, raw, at, bounds or {})
    if get_origin(kind) is tuple and isinstance(raw, list):
        return tuple(read_as(get_args(kind)[0], item, at, bounds) for item in raw)
    if get_origin(kind) is dict and isinstance(raw, dict):
        inner = get_args(kind)[1]
        return {key: read_as(inner, value, f"{at}{key[:SHOWN]}.", bounds) for key, value in raw.items()}
    if kind is float and type(raw) in (int, float) and abs(raw) < 2**63:
        return float(raw)  # the bound also excludes NaN and infinity
    if kind is int and type(raw) is int and 0 <= raw < 2**63:
        return raw
    if kind is str and isinstance(raw, str):
        raw.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
        return raw
    if kind is bool and isinstance(raw, bool):
        return raw
    raise ValueError(f"{at.removesuffix('.')} = {shown(raw)}")


def _read_fields(kind: type, raw: dict[str, Any], at: str, bounds: Bounds) -> Any:
    types = _types(kind)
    if odd := (types.keys() ^ raw.keys()) - (_optional(kind) - raw.keys()):
        name = min(odd)
        raise ValueError(f"no {at}{name}" if name in types else f"an unknown {at}{name}")
    read = {name: read_as(types[name], value, f"{at}{name}.", bounds) for name, value in raw.items()}
    for name, value in read.items():
        if limits := bounds.get((kind, name)):
            _check_bounds(value, limits, f"{at}{name}")
    return kind(**read)


def _check_bounds(value: Any, limits: tuple[float, float], name: str) -> None:
    least, most = limits
    for number in value if isinstance(value, tuple) else (value,):
        if not least <= number <= most:
            raise ValueError(f"{name} = {number}, allowed are {least} to {most}")


_types = cache(get_type_hints)


@cache
def _optional(kind: type) -> frozenset[str]:
    """Fields that were added to the format later, which have defaults: a file may lack them."""
    return frozenset(
        f.name for f in dataclass_fields(kind) if f.default is not MISSING or f.default_factory is not MISSING
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text[:40]} is out of range")
    return number


_shorten = Repr()
_shorten.maxlevel = 4
_shorten.maxlist = _shorten.maxtuple = _shorten.maxdict = 20
_shorten.maxstring = _shorten.maxlong = _shorten.maxother = SHOWN
