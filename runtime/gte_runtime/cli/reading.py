"""Reads rows of text from arguments, lines, JSONL, JSON, CSV or TSV. Lines end at the newline byte only:
U+2028 is part of a text. Files of other kinds are refused by their first bytes."""

from __future__ import annotations

import csv
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
MAX_DOCUMENT = 256 * 2**20
"""Bytes of a JSON document that is read whole. JSONL has no limit."""
HEAD = 1024
"""Bytes by which a file of another kind is recognised."""

FORMS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}
"""Forms of files by the ends of their names. Others are lines."""

UTF_16 = "in UTF-16; convert it: iconv -f UTF-16 -t UTF-8"

KINDS = {
    b"\x1f\x8b": "compressed with gzip; gunzip it",
    b"BZh": "compressed with bzip2; bunzip2 it",
    b"\xfd7zXZ": "compressed with xz; unxz it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unzstd it",
    b"PK\x03\x04": "a zip archive, or a document of an office program; unpack it, or save its text as CSV",
    b"%PDF-": "a PDF document; extract its text first",
    b"PAR1": "a Parquet file; write its text column as JSONL or CSV",
    b"ARROW1": "an Arrow file; write its text column as JSONL or CSV",
    b"\x93NUMPY": "an array of numpy; write its texts as JSONL",
    b"SQLite format 3": "an SQLite database; write its texts as JSONL or CSV",
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
}
"""First bytes of files that are no text in UTF-8: what they are and what to do."""

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

    A file's form is that of its name; see FORMS. Stdin is JSONL if its first line starts with a brace.

    Args:
        source: a path, or "-".
        text_field: the field of a JSON object, or the column of a CSV, that holds the text.

    Raises:
        InputFileError: the file is missing, a directory, of another kind, or not readable.
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
    try:
        check_kind(_beginning(file), name)  # before a model loads
    except BaseException:
        file.close()
        raise
    form = FORMS.get(path.suffix.lower(), "lines")
    return Rows(_rows(file, form, text_field, name), "line")


def _beginning(file: IO[bytes]) -> bytes:
    """The first bytes, where one can look without reading; those of a pipe are checked when it is read."""
    try:
        regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        return os.pread(file.fileno(), HEAD, 0) if regular else b""
    except OSError:
        return b""  # the error comes again when the file is read


def check_kind(head: bytes, name: str) -> None:
    """Raises InputFileError where the first bytes of a file show that it is no text in UTF-8."""
    for begin, kind in KINDS.items():
        if head.startswith(begin):
            raise InputFileError(f"{name[:80]} is {kind}")
    if head.count(b"\0") > len(head) // 4:  # every second byte of Latin text in UTF-16
        raise InputFileError(f"{name[:80]} is {UTF_16}")


def _rows(file: IO[bytes], form: str, text_field: str, name: str) -> Iterator[tuple[int, Row] | None]:
    try:
        with file:
            lines = _numbered(_lines(_checked(_pieces(file), name)))
            if form in ("csv", "tsv"):
                yield from _table(lines, form, text_field, name)
                return
            if form == "json":
                first, lines = _first(lines)
                if not isinstance(_parsed(first), dict):
                    yield from _document(lines, text_field, name)
                    return
                form = "jsonl"
            if form == "auto":
                first, lines = _first(lines)
                form = "jsonl" if first.lstrip().startswith(b"{") else "lines"
            for number, line in lines:
                if line is PAUSE:
                    yield None
                elif line is TOO_LONG:
                    yield number, Row(None, problem=f"a line of more than {MAX_LINE} bytes")
                elif form == "lines":
                    yield number, _plain(line)
                elif line.strip():
                    yield number, _json(line, text_field)
    except InputFileError:
        raise
    except OSError as error:
        raise InputFileError(f"{name}: {error.strerror or error}") from None


def _first(lines: Iterator[tuple[int, bytes]]) -> tuple[bytes, Iterator[tuple[int, bytes]]]:
    """The first line that is not blank, and all of the lines.

    A brace at its start decides that stdin is JSONL. So lines of broken JSON are rejected, not embedded as
    plain text.
    """
    read: list[tuple[int, bytes]] = []
    for number, line in lines:
        if line is PAUSE:
            continue
        read.append((number, line))
        if line.strip():
            break
    return read[-1][1] if read else b"", itertools.chain(read, lines)


def _parsed(line: bytes) -> object:
    """The value of a line of JSON; None where it is none by itself."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _document(lines: Iterable[tuple[int, bytes]], text_field: str, name: str) -> Iterator[tuple[int, Row]]:
    """Rows of one JSON document: the items of a list, or one object. They are numbered in place of lines."""
    whole = bytearray()
    for _, line in lines:
        if line is TOO_LONG or len(whole) > MAX_DOCUMENT:
            raise InputFileError(f"{name} is too large for one JSON document; write JSONL")
        if line is not PAUSE:
            whole += line + b"\n"
    if not whole.strip():
        return
    try:
        value = json.loads(whole.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InputFileError(f"{name}: {_no_utf8(error)}") from None
    except json.JSONDecodeError as error:
        raise InputFileError(f"{name}: not JSON: {error.msg} in line {error.lineno}") from None
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{name}: not JSON: {error}") from None
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        yield number, _row(item, text_field)


def _table(
    lines: Iterable[tuple[int, bytes]], form: str, text_field: str, name: str
) -> Iterator[tuple[int, Row]]:
    """Rows of a table with a header. A quoted value may hold line ends; ";" separates where the header has no
    comma, as spreadsheets write it in many countries.

    Raises:
        InputFileError: there is no column for texts, or a quote without its end.
    """
    csv.field_size_limit(MAX_LINE)

    def decoded() -> Iterator[str]:
        for number, line in lines:
            if line is TOO_LONG:
                raise InputFileError(f"{name}: line {number} has more than {MAX_LINE} bytes")
            if line is not PAUSE:
                yield line.decode("utf-8", "surrogateescape") + "\n"

    text = decoded()
    head = next(text, None)
    if head is None:
        return
    mark = "\t" if form == "tsv" else ";" if "," not in head and ";" in head else ","
    rows = csv.reader(itertools.chain([head], text), delimiter=mark, strict=True)
    try:
        columns = next(rows)
        if text_field not in columns:
            raise InputFileError(
                f"{name} has no column {text_field!r}, it has {', '.join(columns)[:200]}; "
                "name one with --text-field"
            )
        at, ids = columns.index(text_field), columns.index("id") if "id" in columns else None
        for values in rows:
            if not values:
                continue
            identity = values[ids] if ids is not None and ids < len(values) else None
            problem = None if at < len(values) else f"no column {text_field!r} in this row"
            if any("\udc80" <= character <= "\udcff" for value in values for character in value):
                identity, problem = None, "not valid UTF-8"
            yield rows.line_num, Row(None if problem else values[at], identity, problem)
    except csv.Error as error:
        raise InputFileError(f"{name}: line {rows.line_num}: {error}") from None


def _checked(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The pieces of a file, of which the first shows whether it is text."""
    begun = False
    for piece in pieces:
        if piece is not PAUSE and not begun:
            check_kind(piece[:HEAD], name)
            begun = True
        yield piece


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
        json.dumps(value.get("id") if isinstance(value, dict) else None, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return Row(None, problem=_no_utf8(error))
    except UnicodeEncodeError:
        return Row(None, problem="the id holds half a surrogate pair, which cannot be written")
    except json.JSONDecodeError as error:
        return Row(None, problem=f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return Row(None, problem=f"not JSON: {error}")
    return _row(value, text_field)


def _row(value: object, text_field: str) -> Row:
    """The row of a value of JSON."""
    if isinstance(value, str):
        return Row(value)
    if not isinstance(value, dict):
        return Row(None, problem=f"expected an object, found {type(value).__name__}")
    if text_field not in value:
        return Row(None, problem=f"no field {text_field!r}")
    return Row(value[text_field], value.get("id"))


def _no_utf8(error: UnicodeDecodeError) -> str:
    return f"not valid UTF-8 at byte {error.start}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
