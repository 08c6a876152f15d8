"""Reads rows of text from arguments, lines or JSONL. Lines end at the newline byte only: U+2028 is part of a
text."""

from __future__ import annotations

import itertools
import json
import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import GteError

MAX_LINE = 16 * 2**20
"""Longest line that is accepted, in bytes."""
PIECE = 2**16
"""Bytes of one read."""
PAUSE_AFTER = 0.05
"""Seconds without data after which a pipe counts as paused."""


class InputFileError(GteError, OSError):
    """An input file that cannot be read at all."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an input."""

    text: object
    """A string, or the JSON value in its place, which the embedder will refuse."""
    id: Any = None
    """Field `id` of a JSONL object."""
    problem: str | None = None
    """Why the row could not be read."""


class Rows:
    """Rows in order. For rows that were read and not yet written it keeps line number, id and problem."""

    def __init__(self, rows: Iterable[tuple[int, Row] | None], unit: str) -> None:
        """Read from an iterator.

        Args:
            rows: (line number, row), or None where the input pauses.
            unit: "line" or "text", for messages.
        """
        self._rows = iter(rows)
        self._unit = unit
        self._seen: dict[int, tuple[int, Any, str | None]] = {}
        self._forgotten = 0
        self.count = 0
        self.ended = False

    def __iter__(self) -> Iterator[Row]:
        while not self.ended:
            yield from self.until_pause()

    def until_pause(self) -> Iterator[Row]:
        """Rows up to the next pause of the input, at least one. `ended` is True after the last one.

        A program at the other end of a pipe may wait for the vectors of these rows before it sends more.
        """
        before = self.count
        for each in self._rows:
            if each is not None:
                line, row = each
                self._seen[self.count] = (line, row.id, row.problem)
                self.count += 1
                yield row
            elif self.count > before:
                return
        self.ended = True

    def ids(self, index: Iterable[int]) -> list[Any]:
        """Ids of rows, by their positions in the input."""
        return [self._seen[int(i)][1] for i in index]

    def place(self, index: int) -> str:
        """Where a row was, for messages: "line 4"."""
        return f"{self._unit} {self._seen[index][0]}"

    def problem(self, index: int) -> str | None:
        """Why a row could not be read; None if it could."""
        return self._seen[index][2]

    def forget(self, count: int) -> None:
        """Drop what is kept of the next `count` rows, so that memory does not grow with the input."""
        for index in range(self._forgotten, self._forgotten + count):
            del self._seen[index]
        self._forgotten += count


def from_arguments(texts: tuple[str, ...]) -> Rows:
    """Each argument as a row. Raises UsageError for one that is not valid UTF-8."""
    for number, text in enumerate(texts, 1):
        try:
            text.encode()
        except UnicodeEncodeError:
            import click

            raise click.UsageError(f"text {number}: argument is not valid UTF-8") from None
    return Rows(enumerate((Row(text) for text in texts), 1), "text")


def open_rows(source: str, text_field: str) -> Rows:
    """Rows of a file, or of stdin for "-".

    A file is JSONL if its name ends in .jsonl or .ndjson; stdin is, if its first line starts with a brace.

    Args:
        source: a path, or "-".
        text_field: the field of a JSONL object that holds the text.

    Raises:
        InputFileError: the file is missing, a directory, or not readable.
    """
    if source == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise InputFileError("stdin is closed; give texts as arguments or a file with -i")
        if sys.stdin.isatty():
            print("gte: reading from the terminal, one text per line; Ctrl-D ends", file=sys.stderr)
        return Rows(_rows(sys.stdin.buffer, "auto", text_field, "stdin"), "line")
    path = Path(source)
    name = path.name or source[-80:]
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise InputFileError(f"{name} is a directory; give a file of texts")
        file = path.open("rb")
    except InputFileError:
        raise
    except (OSError, ValueError) as error:
        hint = "; a URL is not downloaded, give a file" if "://" in source else ""
        raise InputFileError(f"{name[:80]}: {getattr(error, 'strerror', error)}{hint}") from None
    return Rows(
        _rows(file, "jsonl" if path.suffix in (".jsonl", ".ndjson") else "lines", text_field, name), "line"
    )


def _rows(file: IO[bytes], form: str, text_field: str, name: str) -> Iterator[tuple[int, Row] | None]:
    try:
        with file:
            lines = _numbered(_lines(_pieces(file)))
            if form == "auto":
                form, lines = _recognised(lines)
            for number, line in lines:
                if line is PAUSE:
                    yield None
                elif line is TOO_LONG:
                    yield number, Row(None, problem=f"a line of more than {MAX_LINE} bytes")
                elif form == "lines":
                    yield number, _plain(line)
                elif line.strip():
                    yield number, _json(line, text_field)
    except OSError as error:
        raise InputFileError(f"{name}: {error.strerror or error}") from None


def _recognised(lines: Iterator[tuple[int, bytes]]) -> tuple[str, Iterator[tuple[int, bytes]]]:
    """Whether lines are "jsonl" or plain "lines", by the first that is not blank; and all of the lines.

    A brace at its start decides. So lines of broken JSON are rejected, not embedded as plain text.
    """
    read: list[tuple[int, bytes]] = []
    for number, line in lines:
        if line is PAUSE:
            continue
        read.append((number, line))
        if line.strip():
            break
    form = "jsonl" if read and read[-1][1].lstrip().startswith(b"{") else "lines"
    return form, itertools.chain(read, lines)


TOO_LONG, PAUSE = b"too long", b"pause"
"""Markers among lines, compared by identity."""


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a file or pipe as they arrive, with PAUSE wherever none arrive for PAUSE_AFTER seconds."""
    try:
        number = file.fileno() if os.name == "posix" else None  # on Windows select() takes sockets only
    except (OSError, AttributeError):
        number = None
    while True:
        if number is not None and not select.select([number], [], [], PAUSE_AFTER)[0]:
            yield PAUSE
        piece = file.read(PIECE) if number is None else os.read(number, PIECE)
        if not piece:
            return
        yield piece


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    for line in lines:
        number += line is not PAUSE
        yield number, line


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their line end, the first without a byte order mark; pauses are passed on. A line that is
    too long is skipped without holding it in memory."""
    mark, held, too_long = b"\xef\xbb\xbf", bytearray(), False

    def ended() -> bytes:
        nonlocal mark, too_long
        line = TOO_LONG if too_long else bytes(held).removeprefix(mark).removesuffix(b"\r")
        held.clear()
        mark, too_long = b"", False
        return line

    for piece in pieces:
        if piece is PAUSE:
            yield PAUSE
            continue
        for count, part in enumerate(piece.split(b"\n")):
            if count:
                yield ended()
            if not too_long:
                held += part
            if len(held) > MAX_LINE:
                held.clear()
                too_long = True
    if held or too_long:
        yield ended()


def _plain(line: bytes) -> Row:
    try:
        return Row(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row(None, problem=_no_utf8(error))


def _json(line: bytes, text_field: str) -> Row:
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        identity = value.get("id") if isinstance(value, dict) else None
        json.dumps(identity, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return Row(None, problem=_no_utf8(error))
    except UnicodeEncodeError:
        return Row(None, problem="the id holds half a surrogate pair, which cannot be written")
    except json.JSONDecodeError as error:
        return Row(None, problem=f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return Row(None, problem=f"not JSON: {error}")
    if isinstance(value, str):
        return Row(value)
    if not isinstance(value, dict):
        return Row(None, problem=f"expected an object, found {type(value).__name__}")
    if text_field not in value:
        return Row(None, problem=f"no field {text_field!r}")
    return Row(value[text_field], identity)


def _no_utf8(error: UnicodeDecodeError) -> str:
    return f"not valid UTF-8 at byte {error.start}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
