"""A request's body: received within limits, decompressed, and read as JSON of a known shape."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
import orjson

from .fields import allowed, judge, refused_of
from .refusals import Refusal

T = TypeVar("T", bound=msgspec.Struct)
Receive = Callable[[], Awaitable[dict[str, Any]]]

ENCODINGS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""For each content-encoding, the window bits with which zlib reads it."""


class Disconnected(Exception):
    """The client has disconnected, so there is nobody to answer."""


def check_head(headers: dict[bytes, bytes], limit: int) -> int | None:
    """Check a body by its headers alone; return the zlib window bits of its encoding, None if it has none.

    Raises:
        Refusal: not JSON in UTF-8, of an unknown encoding, or with a content-length over the limit.
    """
    kind, *parameters = headers.get(b"content-type", b"").decode("latin-1").split(";")
    charsets = [
        p.partition("=")[2].strip(' "').lower()
        for p in parameters
        if p.strip().lower().startswith("charset=")
    ]
    if kind.strip().lower() != "application/json" or any(c not in ("utf-8", "utf8") for c in charsets):
        raise Refusal(
            "unsupported_media_type",
            "send a JSON body in UTF-8, with the header content-type: application/json",
        )
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity" and encoding not in ENCODINGS:
        raise Refusal(
            "unsupported_media_type", "the content-encoding is not known; send gzip, deflate or none"
        )
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > limit:
        raise too_large(limit)
    return ENCODINGS.get(encoding)


async def receive_body(
    receive: Receive, limit: int, window_bits: int | None, hold: Callable[[int], None]
) -> bytes:
    """The whole body. `hold` is called with the size of every piece, and may raise.

    Raises:
        Refusal: longer than the limit, as received or as decompressed.
        Disconnected: the client disconnected before the end.
    """
    unpack = zlib.decompressobj(window_bits) if window_bits else None
    pieces: list[bytes] = []
    received = size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        piece = message.get("body", b"")
        received += len(piece)
        if received > limit:
            raise too_large(limit)
        if unpack is not None:
            piece = _unpacked(unpack, piece, limit - size)
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        hold(len(piece))
        pieces.append(piece)
        if not message.get("more_body", False):
            break
    if unpack is not None and (not unpack.eof or unpack.unused_data):
        raise Refusal("invalid_request", "the compressed body ends early or goes on after its end")
    return b"".join(pieces)


def _unpacked(unpack: Any, piece: bytes, room: int) -> bytes:
    try:
        out: bytes = unpack.decompress(piece, room + 1)
    except zlib.error:
        raise Refusal("invalid_request", "the body is not compressed as its content-encoding says") from None
    return out


def too_large(limit: int) -> Refusal:
    return Refusal(
        "payload_too_large",
        f"the body is over the limit of {limit} bytes (--max-body); send fewer texts at a time",
    )


def parse(body: bytes, kind: type[T], strict: bool, max_values: int) -> tuple[T, list[str]]:
    """The body as a request, and warnings about fields without effect. Of equal keys the last one counts.

    JSON clients write booleans and numbers as strings, such as "true" and "8", and servers that use pydantic
    take them, so a string counts as what it spells where only a boolean or a number is expected.

    Args:
        body: the bytes.
        kind: the type of the request.
        strict: refuse unknown fields, instead of warning of them.
        max_values: JSON values at most.

    Raises:
        Refusal: not JSON, not UTF-8, without the fields and types of `kind`, with a field that is not
            supported, or of too many values.
    """
    _check_values(body, max_values)
    try:
        request, unknown = _parsed(body, kind, strict)
        warnings = [f"the field {name} is not known here and was ignored" for name in unknown[:MOST_NAMED]]
        if (more := len(unknown) - MOST_NAMED) > 0:
            warnings.append(f"{more} more fields are not known here and were ignored")
        try:
            return request, warnings + judge(request)
        except (UnicodeDecodeError, msgspec.DecodeError):
            _check_syntax(body)
            raise
    except RecursionError:
        raise too_deep() from None


def too_deep() -> Refusal:
    return Refusal("invalid_json", "the body is nested too deeply")


def names(body: bytes, max_values: int) -> dict[str, bool]:
    """The fields of an object, and whether each is more than null. Raises Refusal for what is no object."""
    _check_values(body, max_values)
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return {
            name: not (len(memoryview(raw)) == 4 and bytes(raw) == b"null") for name, raw in fields.items()
        }
    except (msgspec.DecodeError, UnicodeDecodeError):
        _check_syntax(body)
        raise Refusal("invalid_type", "body: expected an object") from None
    except RecursionError:
        raise too_deep() from None


INSIDE = re.compile(rb'(?:[^"\\]{1,4096}+|\\.){0,64}+', re.DOTALL)
"""A part of a string: not all of it at once, because the search holds the interpreter's lock."""
MARKS = b",[{"
"""Every value of JSON but the first comes after one of these, or after the colon after a key that does."""
OUT_OF_RANGE = ("Number out of range", "Integer value out of range")
"""Of msgspec: numbers that are infinite as floats, and integers of more digits than Python reads."""
FEW_VALUES = 10_000
"""Up to so many values, all objects of a body are made within milliseconds."""
MOST_NAMED = 6
"""Unknown fields that have a warning each. The others are counted."""
SLICE = 2**20
"""Bytes that are counted at a time: counting holds the interpreter's lock."""


def _check_values(body: bytes, most: int) -> None:
    """Raises Refusal for more values than `most`, before any of them becomes an object of 50 bytes and more.

    Counted are items of arrays and members of objects, and once more what is an array or object itself.
    """
    if len(body) <= most or _marks(body) <= most:
        return
    count = 0
    for strings, outside in enumerate(_outside_strings(body)):
        count += _marks(outside)
        if max(count, strings // 2) > most:
            raise Refusal(
                "payload_too_large",
                f"the body has more than {most} JSON values (--max-values); send fewer at a time",
            )


def _outside_strings(body: bytes) -> Iterator[bytes]:
    """The parts of JSON before, between and after its strings."""
    start = 0
    while (quote := body.find(b'"', start)) >= 0:
        yield body[start:quote]
        end = quote + 1
        while body[end : end + 1] != b'"':
            part = INSIDE.match(body, end)
            if part is None or part.end() == end:
                return  # the body ends inside a string, which is not JSON
            end = part.end()
        start = end + 1
    yield body[start:]


def _marks(part: bytes) -> int:
    """How many bytes of it are one of MARKS."""
    slices = (part[start : start + SLICE] for start in range(0, len(part), SLICE))
    return sum(len(each) - len(each.translate(None, MARKS)) for each in slices)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """No garbage is collected while a body becomes objects. None of them is garbage yet, and walking over
    them again and again takes most of the time: 0.12 of 0.16 seconds for 330,000 lists, under the
    interpreter's lock."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parsed(body: bytes, kind: type[T], strict: bool) -> tuple[T, list[str]]:
    """The body as a request, and the names of its unknown fields: of many values, the first alone."""
    try:
        with _without_collections():
            return msgspec.json.decode(body, type=kind, strict=False), []
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = error
    try:
        _check_syntax(body)
    except Refusal as refusal:
        if refusal.code == "invalid_unicode" and "on_error" in kind.__struct_fields__:
            return _with_bad_unicode(body, kind, strict, refusal)
        raise
    message = str(problem)
    if message.startswith(OUT_OF_RANGE):
        raise Refusal("invalid_json", "the body is not JSON: a number is out of range")
    reason = _wrong_shape(message, kind)
    sent: dict[str, msgspec.Raw] = {}
    if reason.code in ("missing_field", "unknown_field") and _has_few_values(body):
        sent = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    if strict or not message.startswith("Object contains unknown field"):
        raise _missing(reason, kind, sent)
    unknown = [_name(name) for name in sent if name not in kind.__struct_fields__] or [str(reason.param)]
    try:
        with _without_collections():
            return msgspec.json.decode(body, type=_lenient(kind), strict=False), unknown
    except msgspec.DecodeError as error:
        raise _missing(_wrong_shape(str(error), kind), kind, sent) from None


def _missing(reason: Refusal, kind: type[msgspec.Struct], sent: Mapping[str, msgspec.Raw]) -> Refusal:
    """Who sends `messages` and no `input` is told that messages are refused, not that input is missing."""
    return (refused_of(kind, sent) if reason.code == "missing_field" else None) or reason


IN_A_TEXT = re.compile(r"input(\[\d+\].*)?", re.DOTALL)
"""Places inside the field that holds the texts of a request with `on_error`."""


def _with_bad_unicode(body: bytes, kind: type[T], strict: bool, refusal: Refusal) -> tuple[T, list[str]]:
    """As `_parsed`, where a text with half of a surrogate pair is answered alone. Else raises `refusal`."""
    value = json.loads(body)
    bad = [place for place, string in _strings(value, "") if _has_surrogate(string)]
    if not (isinstance(value, dict) and value.get("on_error") == "item") or not all(
        map(IN_A_TEXT.fullmatch, bad)
    ):
        raise refusal
    unknown = [_name(name) for name in value if name not in kind.__struct_fields__]
    try:
        return msgspec.convert(value, kind if strict else _lenient(kind), strict=False), unknown
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error), kind) from None


def _has_surrogate(string: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in string)


@cache
def _lenient(kind: type[T]) -> type[T]:
    """The same type of request, with unknown fields ignored."""
    return type(kind.__name__, (kind,), {}, forbid_unknown_fields=False)


def _check_syntax(body: bytes) -> None:
    """Raises Refusal for what is not strict JSON in UTF-8.

    msgspec stops at the first field of a wrong type, so it may not have read the rest. Here it reads over all
    of it and makes no objects. orjson and `json`, which say better what is wrong, make them first: with a
    million values they hold the interpreter's lock for a second.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal("invalid_utf8", f"the body is not UTF-8: byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise Refusal("invalid_utf8", "the body begins with a byte order mark; send UTF-8 without one")
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        return
    except msgspec.DecodeError as error:
        what = str(error).removeprefix("JSON is malformed: ")
    if _has_few_values(body):
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError as error:
            _check_surrogates(text)
            what = f"{error.msg[:60]} (line {error.lineno}, column {error.colno})"
    raise Refusal("invalid_json", f"the body is not JSON: {what}") from None


def _has_few_values(body: bytes) -> bool:
    try:
        _check_values(body, FEW_VALUES)
    except Refusal:
        return False
    return True


def _check_surrogates(text: str) -> None:
    r"""Raises Refusal when the only fault is an escape such as \ud800, half of a pair: `json` accepts it."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return
    for place, string in _strings(value, ""):
        try:
            string.encode()
        except UnicodeEncodeError as error:
            where = _name(place) or "body"
            code = f"U+{ord(string[error.start]):04X}"
            message = f"{where}: lone surrogate {code} at character {error.start}; send both halves of a pair"
            raise Refusal("invalid_unicode", message, param=where) from None


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _strings(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """(place, string) of all strings in a JSON value, keys included."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{place}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{place}{{}}", key
            yield from _strings(item, f"{place}.{key}".lstrip("."))


def _wrong_shape(message: str, kind: type[msgspec.Struct]) -> Refusal:
    """msgspec's message, such as "Expected `str`, got `int` - at `$.input[3]`", as a refusal."""
    what, _, where = message.partition(" - at `$")
    param = where.rstrip("`").lstrip(".") or None
    if name := re.search(r"(missing required|contains unknown) field `(.*)`$", what, re.DOTALL):
        full = _name(f"{param}.{name[2]}" if param else name[2])
        if name[1] == "missing required":
            return Refusal("missing_field", f"the field {full} is missing", param=full)
        return Refusal("unknown_field", f"the field {full} is not known here", param=full)
    if param is not None and param.endswith(("dimensions", "dimension")) and "got `float`" in what:
        return Refusal("invalid_dimensions", f"{param}: expected an integer", param=param)
    code = "invalid_type" if what.startswith("Expected `") and ", got `" in what else "invalid_value"
    reason = _printable(what[:160]).replace("`", "")
    if param is not None and (values := allowed(kind, re.sub(r"\[[^]]*\]", "", param))):
        reason += f"; expected {', '.join(values)}"
    return Refusal(code, f"{param or 'body'}: {reason}", param=param)


def _name(field: str) -> str:
    """A field's name, safe to show: clients choose the names of unknown fields."""
    return _printable(field if len(field) <= 60 else f"{field[:60]}…")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
