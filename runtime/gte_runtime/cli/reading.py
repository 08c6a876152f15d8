"""Rows of text from arguments, lines or JSONL. Splits on the newline byte only: U+2028 is text."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import GteError

MAX_LINE = 16 * 2**20
"""Bytes of the longest line that is read."""


class InputFileError(GteError, OSError):
    """An input file that cannot be read at all."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Row:
    text: object
    """A string, or what stood in its place; the engine says why it is no text."""
    id: Any = None
    problem: str | None = None
    """Why there is no text at all."""


class Rows:
    """Rows in order, remembering ids and line numbers of the ones that were read."""

    def __init__(self, rows: Iterable[tuple[int, Row]], unit: str) -> None:
        self._rows = rows
        self._unit = unit
        self._ids: dict[int, Any] = {}
        self._lines: dict[int, int] = {}
        self._problems: dict[int, str] = {}
        self.count = 0

    def __iter__(self) -> Iterator[Row]:
        for line, row in self._rows:
            self._lines[self.count], self._ids[self.count] = line, row.id
            if row.problem is not None:
                self._problems[self.count] = row.problem
            self.count += 1
            yield row

    def ids(self, index: Iterable[int]) -> list[Any]:
        return [self._ids[int(i)] for i in index]

    def place(self, index: int) -> str:
        return f"{self._unit} {self._lines[index]}"

    def problem(self, index: int) -> str | None:
        return self._problems.get(index)


def from_arguments(texts: tuple[str, ...]) -> Rows:
    for number, text in enumerate(texts, 1):
        try:
            text.encode()
        except UnicodeEncodeError:
            import click

            raise click.UsageError(f"text {number}: argument is not valid UTF-8") from None
    return Rows(enumerate((Row(text) for text in texts), 1), "text")


def open_rows(source: str, text_field: str) -> Rows:
    """Rows of a file or of stdin. JSONL is recognised by its name; on stdin, lines that are JSON objects with the text field.

    Raises:
        InputFileError: missing, a directory, not readable.
    """
    if source == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise InputFileError("stdin is closed; give texts as arguments or a file with -i")
        return Rows(_rows(sys.stdin.buffer, "auto", text_field), "line")
    path = Path(source)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InputFileError(f"{path.name} is a directory; give a file of texts")
        file = path.open("rb")
    except InputFileError:
        raise
    except OSError as error:
        raise InputFileError(f"{path.name}: {error.strerror}") from None
    return Rows(_rows(file, "jsonl" if path.suffix in (".jsonl", ".ndjson") else "lines", text_field), "line")


def _rows(file: IO[bytes], form: str, text_field: str) -> Iterator[tuple[int, Row]]:
    with file:
        for number, line in enumerate(_lines(file), 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line is TOO_LONG:
                yield number, Row(None, problem=f"a line of more than {MAX_LINE} bytes")
            elif form == "lines" or (form == "auto" and not line.lstrip().startswith(b"{")):
                if line or form == "lines":
                    yield number, _plain(line)
            elif line.strip():
                yield number, _json(line, text_field)


TOO_LONG = b"too long"


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines without their end. The rest of one that is too long is skipped, not held."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield TOO_LONG
        else:
            yield line.removesuffix(b"\n").removesuffix(b"\r")


def _plain(line: bytes) -> Row:
    try:
        return Row(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row(None, problem=f"not valid UTF-8 at byte {error.start}")


def _json(line: bytes, text_field: str) -> Row:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return Row(None, problem=f"not JSON: {error}")
    if isinstance(value, str):
        return Row(value)
    if not isinstance(value, dict):
        return Row(None, problem=f"expected an object, found {type(value).__name__}")
    if text_field not in value:
        return Row(None, problem=f"no field {text_field!r}")
    return Row(value[text_field], value.get("id"))
