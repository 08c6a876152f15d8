"""Unicode's composed form (NFC) of a text, and a notice of texts that are in another form. Pure.

Decomposed text, such as "e" and an accent for "é", looks the same and has other tokens. It comes from file
names on macOS and from many tools that read PDF files.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Literal

from ..errors import ConfigError
from .prefix import loners

Form = Literal["exact", "NFC"]
"""How texts are read: as they are, or composed."""
EXACT: Form = "exact"
NFC: Form = "NFC"

PART = 32_768
"""Characters that are composed in one call, which holds the interpreter's lock: 1 millisecond for most."""
LONGEST_RUN = 64
"""A run of so many combining marks stays as it is: sorting them takes the square of their number, half a
second for 16,000. Unicode's stream-safe form (annex 15) allows 30."""
LARGEST_GROWTH = 5
"""More characters than those may not become one: NFC makes one of up to four, such as U+1F82."""

LOOKED_AT = 1024
"""Characters of each text that the notice looks at: some 2 microseconds."""
LOOKS = 100
"""Texts in another form after which the notice ends, if none of them had other tokens than its composed form:
such a tokenizer composes by itself, or drops accents."""

OTHER_FORM = (
    "a text is not in Unicode's composed form (NFC), as macOS and PDF readers write it, and has other tokens "
    "than the same words composed, so their vectors may be far apart; unicode='NFC' composes texts "
    "(--nfc on the command line)"
)


def choose_form(value: object, default: Form) -> Form:
    """The form that an argument `unicode` means; None is the default.

    Raises:
        ConfigError: it is none of them.
    """
    if value is None:
        return default
    if value == NFC:
        return NFC
    if value == EXACT:
        return EXACT
    raise ConfigError(
        f"unicode is {repr(value)[:40]}; expected 'NFC', 'exact', or None for the bundle's default"
    )


def is_composed(text: str) -> bool:
    """Whether `composed` would return the text as it is."""
    return composed(text) == text


def composed(text: str) -> str:
    """The text in NFC, but for runs of LONGEST_RUN combining marks and more. Takes linear time."""
    return text if text.isascii() else "".join(map(_composed, _parts(text)))


def _composed(part: str) -> str:
    if unicodedata.is_normalized("NFC", part):
        return part
    return _without_runs(_maybe_runs(), part, lambda run: _without_runs(_runs(), run, str))


def _without_runs(runs: re.Pattern[str], part: str, keep: Callable[[str], str]) -> str:
    """What is between runs in NFC, and what `keep` makes of the runs."""
    pieces = runs.split(part)  # text, run, text, run, ..., text
    return "".join(
        keep(piece) if number % 2 else unicodedata.normalize("NFC", piece)
        for number, piece in enumerate(pieces)
    )


def _parts(text: str) -> Iterator[str]:
    """Parts that can be composed one by one, of PART to 2 PART characters. A longer one in which no character
    stands by itself ends anywhere."""
    start = 0
    while len(text) - start > 2 * PART:
        found = _by_themselves().search(text, start + PART, start + 2 * PART)
        stop = found.start() if found else start + 2 * PART
        yield text[start:stop]
        start = stop
    yield text[start:]


@cache
def _by_themselves() -> re.Pattern[str]:
    """A character that does not compose with the one before it."""
    return re.compile(rf"[\x00-\x7f]|{loners()}")


@cache
def _marks(last: int) -> str:
    """Combining marks, and characters that decompose to some (U+0F73 is not one itself), in ranges."""
    ranges: list[list[int]] = []
    for code in range(0x300, last + 1):
        if unicodedata.combining(unicodedata.normalize("NFD", chr(code))[0]):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in ranges)


@cache
def _maybe_runs() -> re.Pattern[str]:
    """Runs of marks and of any characters beyond U+FFFF, for which `re` has no fast test one by one."""
    return _runs_of(_marks(0xFFFF) + "\U00010000-\U0010ffff")


@cache
def _runs() -> re.Pattern[str]:
    return _runs_of(_marks(0x1FFFF))


def _runs_of(characters: str) -> re.Pattern[str]:
    # A search for a run begins only where one may begin, or it would count from each of its characters.
    return re.compile(f"((?<![{characters}])[{characters}]{{{LONGEST_RUN},}})")


def places(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of characters in `composed(text)`, in ascending order, as spans in the text.

    A span that begins or ends between characters that became one begins before them or ends behind them.
    """
    last = spans[-1][1] if spans else 0
    starts, composed_starts, kept = [0], [0], [True]
    """Where a part begins in both, and whether it stays as it is."""
    for cut in (*(found.start() for found in _by_themselves().finditer(text, 1)), len(text)):
        if composed_starts[-1] > last:
            break
        part = text[starts[-1] : cut]
        kept[-1] = (other := composed(part)) == part
        starts.append(cut)
        composed_starts.append(composed_starts[-1] + len(other))
        kept.append(True)

    def place(at: int, part: int, *, end: bool) -> int:
        if kept[part]:
            return starts[part] + at - composed_starts[part]
        return starts[part + 1] if end else starts[part]

    found = []
    for a, b in spans:
        first = bisect_right(composed_starts, a) - 1
        found.append((place(a, first, end=False), place(b, bisect_left(composed_starts, b) - 1, end=True)))
    return found


class Notice:
    """Says once that there was a text in another form than NFC, if its tokens would be others in NFC."""

    def __init__(self, ids: Callable[[str], list[int]]) -> None:
        self._ids = ids
        self._left = LOOKS
        self.tell: Callable[[str], object] = warnings.warn
        """Gets the message."""

    def stop(self) -> None:
        """Say nothing: whoever chose the form knows."""
        self._left = 0

    def look(self, texts: Iterable[str]) -> None:
        """Look at the beginnings of texts that are tokenized as they are."""
        for text in texts:
            if not self._left:
                return
            if text.isascii():
                continue
            head = text[:LOOKED_AT]
            if (other := composed(head)) == head:
                continue
            self._left -= 1
            if self._ids(head) != self._ids(other):
                self._left = 0
                self.tell(OTHER_FORM)
