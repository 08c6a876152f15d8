"""Rows of text from lines, JSON lines, a JSON array, CSV, TSV, Parquet and Arrow, plain or compressed.

A row that cannot be read has a problem and stops nothing. A file that cannot be read, or has no column of the
given name, raises InputFileError.
"""

from __future__ import annotations

import codecs
import csv
import glob
import io
import itertools
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ..errors import InputFileError
from . import forms
from .lines import MAX_LINE, PAUSE, PIECE, TOO_LONG, gunzipped, lines_of, numbered, pieces_of, unzstd
from .row import Fields, Read, Row, check_columns
from .tables import parquet_rows, table_rows

HEAD = 2**16
"""Bytes by which the form of an input is recognised, at most."""
FIRST_ROWS = 10
"""If none of so many JSON objects has the field of the text, the field's name is wrong, not the rows."""


class Rows:
    """Rows in order. For rows that were read and not yet written it keeps everything but the text."""

    def __init__(self, rows: Iterable[Row | None], total: int | None = None) -> None:
        """Read from an iterator of rows, with None where the input pauses; `total` is their number where it
        is known."""
        self._rows = iter(rows)
        self._seen: dict[int, Row] = {}
        self._forgotten = 0
        self.total = total
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
        for row in self._rows:
            if row is not None:
                self._seen[self.count] = replace(row, text=None)
                self.count += 1
                yield row
            elif self.count > before:
                return
        self.ended = True

    def __getitem__(self, index: int) -> Row:
        """A row without its text, by its position in the input."""
        return self._seen[int(index)]

    def ids(self, index: Iterable[int]) -> list[Any]:
        """Ids of rows, by their positions in the input."""
        return [self._seen[int(i)].id for i in index]

    def place(self, index: int) -> str:
        """Where a row is, for messages."""
        return self._seen[index].place

    def problem(self, index: int) -> str | None:
        """Why a row could not be read; None if it could."""
        return self._seen[index].problem

    def forget(self, count: int) -> None:
        """Drop what is kept of the next `count` rows, so that memory does not grow with the input."""
        for index in range(self._forgotten, self._forgotten + count):
            del self._seen[index]
        self._forgotten += count


def of_texts(texts: Sequence[str]) -> Rows:
    """Texts as rows, such as the arguments of a command."""
    return Rows((Row(text, number, unit="text") for number, text in enumerate(texts, 1)), len(texts))


def open_rows(sources: Sequence[str], fields: Fields | None = None, form: str | None = None) -> Rows:
    """Rows of files, one after the other.

    Args:
        sources: paths, patterns such as "data/*.jsonl", or "-" for stdin.
        fields: which fields are read.
        form: one of `forms.FORMS`; by default each file's content says it, and its name where that is not
            enough.

    Raises:
        InputFileError: a file is missing, a directory, not readable, of a form that is not read, or has no
            column of the text's name; the last two may be raised while rows are read.
    """
    paths = [path for source in sources for path in expanded(source)]
    for path in paths:
        check_source(path)
    several, fields = len(paths) > 1, fields or Fields()
    parts = [Source(path, several, fields, form) for path in paths]
    for part in parts:
        part.check()
    counts = [part.count() for part in parts]
    total = None if None in counts else sum(count or 0 for count in counts)
    return Rows(itertools.chain.from_iterable(part.rows() for part in parts), total)


def expanded(source: str) -> list[str]:
    """The files that a path or pattern stands for, in the order of their names.

    Raises:
        InputFileError: a pattern that fits no file.
    """
    if source == "-" or not glob.has_magic(source) or os.path.lexists(source):
        return [source]
    found = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 - the pattern may be absolute
    if not found:
        raise InputFileError(f"{source[:80]}: no file has a name of this pattern")
    return found


def check_source(source: str) -> None:
    """Raises InputFileError for what can be seen before anything is read."""
    if source == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise InputFileError("stdin is closed; give texts as arguments or a file with -i")
        return
    name = _name(source)
    try:
        if stat.S_ISDIR(os.stat(source).st_mode):
            raise InputFileError(f"{name} is a directory; give its files, such as '{name}/*.jsonl'")
        with Path(source).open("rb") if not _is_pipe(source) else io.BytesIO():
            pass
    except InputFileError:
        raise
    except (OSError, ValueError) as error:
        hint = "; a URL is not downloaded, give a file" if "://" in source else ""
        raise InputFileError(f"{name}: {getattr(error, 'strerror', None) or error}{hint}") from None


class Source:
    """One input file, or stdin."""

    def __init__(self, path: str, several: bool, fields: Fields, form: str | None) -> None:
        self.path = path
        self.name = "stdin" if path == "-" else _name(path)
        self._label = self.name if several else ""
        self._fields = fields
        self._form = form

    def check(self) -> None:
        """Raises InputFileError for a file of a form that is not read, before a model loads for it."""
        if self.path == "-" or not Path(self.path).is_file():
            return
        try:
            with Path(self.path).open("rb") as file:
                self._recognised(pieces_of(file))
        except InputFileError as error:
            raise InputFileError(f"{self.name}: {error}") from None
        except OSError:
            return  # told when the rows are read

    def count(self) -> int | None:
        """The number of rows, if it can be found without reading them one by one. Blank JSON lines are
        counted, so it may be a little too large."""
        if self.path == "-" or not Path(self.path).is_file():
            return None
        try:
            with Path(self.path).open("rb") as file:
                head = file.read(HEAD)
            if forms.packing_of(head):
                return None
            form = self._form or forms.form_of(head, self.name)
            if form == "parquet":
                return parquet_rows(self.path)
            return _line_count(self.path) if form in ("lines", "jsonl") else None
        except (InputFileError, OSError):
            return None  # told when the rows are read

    def rows(self) -> Read:
        """The rows. Raises InputFileError with the file's name."""
        try:
            with _opened(self.path) as file:
                for row in self._read(file):
                    yield replace(row, source=self._label) if row is not None and self._label else row
        except InputFileError as error:
            raise InputFileError(f"{self.name}: {error}") from None
        except OSError as error:
            raise InputFileError(f"{self.name}: {error.strerror or error}") from None

    def _recognised(self, pieces: Iterator[bytes]) -> tuple[str, Iterator[bytes]]:
        """The form of the content, and the pieces of the content from its beginning."""
        held, pieces = _head(pieces)
        name = "" if self.path == "-" or _is_pipe(self.path) else self.name
        packing = forms.packing_of(held)
        if packing:
            name = forms.inner_name(name)
            held, pieces = _head(gunzipped(pieces) if packing == "gzip" else unzstd(pieces))
        form = self._form or forms.form_of(held, name)
        if form in forms.TABLES and (packing or self.path == "-" or _is_pipe(self.path)):
            raise InputFileError(f"{form} is read from a file only, not from a pipe or a compressed file")
        return form, pieces

    def _read(self, file: IO[bytes]) -> Read:
        form, pieces = self._recognised(pieces_of(file))
        if form in forms.TABLES:
            yield from table_rows(self.path, form, self._fields)
        else:
            yield from READERS[form](pieces, self._fields)


def _name(path: str) -> str:
    return (Path(path).name or path[-80:])[:80]


def _is_pipe(path: str) -> bool:
    return stat.S_ISFIFO(os.stat(path).st_mode)


def _opened(path: str) -> IO[bytes]:
    if path != "-":
        return Path(path).open("rb")
    if sys.stdin.isatty():
        print("gte: reading from the terminal, one text per line; Ctrl-D ends", file=sys.stderr)
    return sys.stdin.buffer


def _line_count(path: str) -> int:
    count, last = 0, b"\n"
    with Path(path).open("rb") as file:
        while piece := file.read(2**20):
            count += piece.count(b"\n")
            last = piece[-1:]
    return count + (last != b"\n")


def _head(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, up to the end of the first line that is not blank or HEAD of them; and all pieces."""
    read: list[bytes] = []
    held = b""
    for piece in pieces:
        read.append(piece)
        if piece is not PAUSE:
            held += piece
        if len(held) >= HEAD or b"\n" in held.lstrip():
            break
    return held, itertools.chain(read, pieces)


def _lines(pieces: Iterator[bytes], fields: Fields) -> Read:
    for number, line in numbered(lines_of(pieces)):
        if line is PAUSE:
            yield None
        elif line is TOO_LONG:
            yield Row(None, number, problem=f"a line of more than {MAX_LINE} bytes")
        else:
            yield _plain(line, number)


def _plain(line: bytes, number: int) -> Row:
    try:
        return Row(line.decode("utf-8"), number)
    except UnicodeDecodeError as error:
        return Row(None, number, problem=_no_utf8(error))


def _jsonl(pieces: Iterator[bytes], fields: Fields) -> Read:
    return _with_field(_json_lines(pieces, fields), fields)


def _json_lines(pieces: Iterator[bytes], fields: Fields) -> Iterator[tuple[Row, Any] | None]:
    for number, line in numbered(lines_of(pieces)):
        if line is PAUSE:
            yield None
        elif line is TOO_LONG:
            yield Row(None, number, problem=f"a line of more than {MAX_LINE} bytes"), None
        elif line.strip():
            try:
                value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
            except UnicodeDecodeError as error:
                yield Row(None, number, problem=_no_utf8(error)), None
            except json.JSONDecodeError as error:
                yield Row(None, number, problem=f"not JSON: {error.msg} at column {error.colno}"), None
            except (ValueError, RecursionError) as error:
                yield Row(None, number, problem=f"not JSON: {error}"), None
            else:
                yield _of_value(value, number, fields), value


def _of_value(value: Any, number: int, fields: Fields, unit: str = "line") -> Row:
    """The row that a JSON value is: a string, or an object with the field of the text."""
    if isinstance(value, str):
        return Row(value, number, unit=unit)
    if not isinstance(value, dict):
        return Row(None, number, problem=f"expected an object, found {type(value).__name__}", unit=unit)
    identity, kept = value.get(fields.id), {name: value.get(name) for name in fields.keep}
    try:
        json.dumps([identity, kept], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        which = "id or a kept field" if fields.keep else "id"
        problem = f"the {which} holds half a surrogate pair, which cannot be written"
        return Row(None, number, problem=problem, unit=unit)
    if fields.text not in value:
        return Row(None, number, identity, f"no field {fields.text!r}", kept, unit=unit)
    return Row(value[fields.text], number, identity, None, kept, unit=unit)


def _with_field(rows: Iterator[tuple[Row, Any] | None], fields: Fields) -> Read:
    """The rows, unless none of the first objects has one of the fields: then its name is wrong."""
    missing = {fields.text: "--text-field", **dict.fromkeys(fields.keep, "--keep")}
    missing |= {fields.id: "--id-field"} if fields.id_is_given else {}
    held: list[Row] = []
    objects: list[dict[str, Any]] = []
    for each in rows:
        if each is None:
            yield None
            continue
        row, value = each
        held.append(row)
        if isinstance(value, dict):
            objects.append(value)
            missing = {name: option for name, option in missing.items() if name not in value}
        elif isinstance(value, str):
            break  # lines of strings have no fields
        if not missing or len(objects) == FIRST_ROWS:
            break
    for name, option in missing.items() if objects else ():
        there = ", ".join(repr(one) for one in list(objects[-1])[:20]) or "none"
        where = "the input" if len(objects) == 1 else f"the first {len(objects)} objects"
        raise InputFileError(f"no field {name!r} in {where}; the fields are {there}; name one with {option}")
    yield from held
    yield from (each if each is None else each[0] for each in rows)


def _json_array(pieces: Iterator[bytes], fields: Fields) -> Read:
    def elements() -> Iterator[tuple[Row, Any] | None]:
        for number, value in enumerate(_elements(pieces), 1):
            yield _of_value(value, number, fields, "element"), value

    return _with_field(elements(), fields)


def _elements(pieces: Iterator[bytes]) -> Iterator[Any]:
    """The values of a JSON array, which may be larger than memory; or the one value that is no array."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    content = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    text, place, count, ended = "", 0, 0, False

    def more() -> None:
        """Double what is held of the text, so that a long value is not parsed again for every piece."""
        nonlocal text, place, ended
        text, place = text[place:], 0
        wanted = max(PIECE, 2 * len(text))
        while len(text) < wanted and not ended:
            piece = next((each for each in pieces if each is not PAUSE), None)
            ended = piece is None
            text += content.decode(piece or b"", ended)

    def following() -> str:
        """The next character that is no space; "" at the end."""
        nonlocal place
        while True:
            place = SPACE.match(text, place).end()  # type: ignore[union-attr]
            if place < len(text):
                return text[place]
            if ended:
                return ""
            more()

    if not following():
        return
    alone = text[place] != "["
    place += not alone
    if following() == "]":
        return
    while True:
        following()
        count += 1
        while True:
            try:
                value, end = decoder.raw_decode(text, place)
                if end < len(text) or ended:  # the last digits of a number may be missing
                    break
            except (ValueError, RecursionError) as error:
                if ended or len(text) - place > MAX_LINE:
                    raise InputFileError(
                        f"element {count} is not JSON: {getattr(error, 'msg', error)}"
                    ) from None
            more()
        place = end
        yield value
        character = following()
        if character == ("" if alone else "]"):
            return
        if alone:
            raise InputFileError("after its first value there is something else; expected a JSON array")
        if character != ",":
            raise InputFileError(f"after element {count}: expected a comma or the array's end")
        place += 1


SPACE = re.compile(r"[ \t\n\r]*")


def _csv(delimiter: str | None) -> Callable[[Iterator[bytes], Fields], Read]:
    def read(pieces: Iterator[bytes], fields: Fields) -> Read:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
        texts = _text_lines(pieces)
        head = next(texts, None)
        if head is None:
            return
        # Spreadsheets of countries with a decimal comma separate columns by semicolons.
        mark = delimiter or max(",;\t", key=head.count)
        reader = csv.reader(itertools.chain([head], texts), delimiter=mark, strict=True)
        try:
            columns = next(reader)
            check_columns(columns, fields)
            for number, values in enumerate(reader, 1):
                if values:
                    yield _of_values(values, columns, number, fields)
        except csv.Error as error:
            raise InputFileError(f"line {reader.line_num}: {error}; is a quote missing?") from None

    return read


def _of_values(values: list[str], columns: list[str], number: int, fields: Fields) -> Row:
    if len(values) != len(columns):
        problem = f"it has {len(values)} columns, and the header {len(columns)}"
        return Row(None, number, problem=problem, unit="row")
    found = dict(zip(columns, values, strict=True))
    if any(not value.isascii() and _escaped(value) for value in found.values()):
        return Row(None, number, problem="not valid UTF-8", unit="row")
    kept = {name: found[name] for name in fields.keep}
    return Row(found[fields.text], number, found.get(fields.id), None, kept, unit="row")


def _escaped(value: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in value)


def _text_lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Lines with their line ends, as the csv module wants them. Bytes that are no UTF-8 become surrogates."""
    content = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    held = ""
    for piece in pieces:
        if piece is PAUSE:
            continue
        *whole, held = (held + content.decode(piece)).split("\n")
        yield from (line + "\n" for line in whole)
        if len(held) > MAX_LINE:
            raise InputFileError(f"a line of more than {MAX_LINE} bytes")
    held += content.decode(b"", True)
    if held:
        yield held


READERS: dict[str, Callable[[Iterator[bytes], Fields], Read]] = {
    "lines": _lines,
    "jsonl": _jsonl,
    "json": _json_array,
    "csv": _csv(None),
    "tsv": _csv("\t"),
}


def _no_utf8(error: UnicodeDecodeError) -> str:
    return f"not valid UTF-8 at byte {error.start}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
