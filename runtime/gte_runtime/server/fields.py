"""What becomes of the fields of a request: done, refused by name, told of in a warning, or without effect.

A request type says so itself: a field without a note is done; any other carries a `Fate`, and so does one
whose meaning needs a sentence. Requests are read by it, and /openapi.json and docs/request-fields.md are
written from it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from .refusals import Refusal

if TYPE_CHECKING:
    Value = Any
else:
    Value = msgspec.Raw
    """The type of a field that is not done. msgspec reads over its value and makes no objects of it."""

How = Literal["done", "refused", "warned", "unused"]


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a field."""

    how: How
    why: str
    """Done: how it is meant. Otherwise: what to do, or why nothing is done. A part of a sentence."""
    unless: tuple[Any, ...] = ()
    """Values that ask for nothing, as null always does: they are neither refused nor warned of."""


DONE = Fate("done", "")

LONGEST_VALUE = 200
"""Bytes of a value that are compared with those that ask for nothing. All of these are shorter."""


def done(why: str) -> Fate:
    return Fate("done", why)


def refused(why: str, *unless: Any) -> Fate:
    return Fate("refused", why, unless)


def warned(why: str, *unless: Any) -> Fate:
    return Fate("warned", why, unless)


def unused(why: str) -> Fate:
    return Fate("unused", why)


@cache
def fates(kind: type[msgspec.Struct]) -> dict[str, Fate]:
    """The fate of every field of a request type, by the name that is sent."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.encode_name: next(
            (note for note in getattr(hints[field.name], "__metadata__", ()) if isinstance(note, Fate)), DONE
        )
        for field in msgspec.structs.fields(kind)
    }


def judge(request: msgspec.Struct) -> list[str]:
    """The warnings about fields that are not done. Their values become None: they keep the body in memory.

    Raises:
        Refusal: a field asks for what is refused.
        UnicodeDecodeError: the value of a field is not UTF-8.
    """
    warnings = []
    for name, fate in fates(type(request)).items():
        if fate.how == "done":
            continue
        raw = getattr(request, name)
        if raw is None:
            continue
        str(memoryview(raw), "utf-8")  # msgspec reads over it and does not look
        setattr(request, name, None)
        if fate.how == "unused" or _asks_for_nothing(raw, fate):
            continue
        if fate.how == "refused":
            raise _refusal(name, fate)
        warnings.append(f"{name} has no effect here: {fate.why}")
    return warnings


def refused_of(kind: type[msgspec.Struct], sent: Mapping[str, msgspec.Raw]) -> Refusal | None:
    """The refusal of the first of these fields that asks for what is refused."""
    for name, raw in sent.items():
        fate = fates(kind).get(name, DONE)
        if fate.how == "refused" and not _asks_for_nothing(raw, fate):
            return _refusal(name, fate)
    return None


def _refusal(name: str, fate: Fate) -> Refusal:
    return Refusal("unsupported_field", f"{name} is not supported here: {fate.why}", param=name)


def _asks_for_nothing(raw: msgspec.Raw, fate: Fate) -> bool:
    if len(memoryview(raw)) > LONGEST_VALUE:
        return False
    value = msgspec.json.decode(raw)
    return value is None or any(_means(value, none) for none in fate.unless)


def _means(value: Any, none: Any) -> bool:
    """A string counts as what it spells where a boolean or an integer is expected, as in fields that are
    done."""
    if not isinstance(none, int):
        return type(value) is type(none) and bool(value == none)
    try:
        return msgspec.convert(value, type(none), strict=False) == none
    except msgspec.ValidationError:
        return False


def allowed(kind: type[msgspec.Struct], field: str) -> list[str]:
    """The strings that a field may be, if its type lists them: of a list, those of its items.

    Args:
        kind: the type of the request.
        field: its name; of a field in a field, with a dot between the names.
    """
    name, _, inner = field.partition(".")
    hint = get_type_hints(kind, include_extras=True).get(name)
    if not inner:
        return list(dict.fromkeys(_literals(hint)))
    structs = [part for part in get_args(hint) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
    return [value for part in structs for value in allowed(part, inner)]


def _literals(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from (value for value in get_args(hint) if isinstance(value, str))
    else:
        for part in get_args(hint):
            yield from _literals(part)
