"""The job: rows of files through the operator into parts, on this machine or on Ray."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..catalog.locate import locate
from ..errors import GteError, InputError, InputFileError, OutputError
from ..format import manifest
from ..machine.tasks import Task
from ..tokenization import Tokens
from . import journal, rows
from .columns import cell, fits, kind_of
from .journal import Journal, Part
from .operator import Place, TableEmbedder, Wanted
from .row import Fields, Row
from .tables import arrow

WINDOW = 1024
"""Rows that are tokenized, sorted by length and run together. Other numbers were not measured."""
WINDOW_BYTES = 2**24
"""A window ends earlier if its texts have more bytes."""
ROWS_PER_PART = 16 * WINDOW
BILLION = 10**9

Tables = Iterable[tuple[int, Any]]
"""(number of a part, a table of some of its rows), in order."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a job is asked to do."""

    sources: tuple[str, ...]
    directory: Path
    model: str = "gte-mini"
    fields: Fields = Fields()
    form: str | None = None
    wanted: Wanted = Wanted()
    place: Place = Place()
    rows_per_part: int = ROWS_PER_PART
    max_rejected: int | None = None
    """The job stops when more rows than that have no vectors; None is no limit."""
    restart: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is."""

    rows: int
    """Rows of the input that are done, rejected ones included."""
    total: int | None
    """Rows of the input, where that is known."""
    rejected: int
    tokens: int
    resumed: int
    """Rows that were done when this run began."""


Report = Callable[[Progress], None]

Engine = Callable[[TableEmbedder, Iterator[tuple[int, Any]]], Iterator[tuple[int, Any]]]
"""(operator, tables of texts with the numbers of their parts) -> whole parts with vectors, in any order."""


def run_job(request: Request, report: Report, engine: Engine | None = None) -> dict[str, Any]:
    """Do a job, or what is left of it. Returns its summary.

    Raises:
        InputFileError: an input cannot be read, or more than `max_rejected` rows have no vectors.
        ResumeMismatchError: the directory holds a job that was begun otherwise.
        OutputError: the directory cannot be written to, or another process is at work in it.
    """
    pa = arrow()
    paths = [path for source in request.sources for path in rows.expanded(source)]
    for path in paths:
        _check_input(path)
    with journal.locked(request.directory):
        if request.restart:
            journal.restart(request.directory)
        read = rows.open_rows(paths, request.fields, request.form)
        each = iter(read)
        first = list(itertools.islice(each, WINDOW))
        operator = TableEmbedder(request.model, "text", request.wanted, request.place)
        try:
            # What differs in the input or the options is told before the model loads.
            job = _description(request, paths)
            if journal.is_job(request.directory):
                begun = journal.read_job(request.directory)
                kinds = dict(begun["columns"])
                job["model"] = {**begun["model"], **job["model"]}
                journal.compare(begun, job, request.directory.name)
            else:
                kinds = _kinds(first, request.fields)
            opened = operator.opened()
            job["columns"] = kinds
            job["model"] |= {
                "variant": opened.info.get("variant"),
                "vocabulary": opened.manifest.architecture.vocab_size,
            }
            book = journal.begin(request.directory, job)
            if book.finished:
                return read_summary(request.directory)
            label = Path(paths[0]).name if len(paths) == 1 else ""
            every = (replace(row, source=row.source or label) for row in itertools.chain(first, each))
            tables = _tables(pa, every, kinds, request, set(book.parts))
            found = (engine or overlapped)(operator, tables)
            with _disk_errors(book, read):
                _write_parts(pa, book, found, request, report, read)
                book.finish(summary := _summary(book, request))
            return summary
        finally:
            operator.close()


def read_summary(directory: Path) -> dict[str, Any]:
    """The summary of a job that is finished."""
    summary: dict[str, Any] = json.loads((directory / journal.SUMMARY).read_bytes())
    return summary


def status(directory: Path) -> dict[str, Any]:
    """How far a job is. It may be running."""
    job, parts = journal.read_job(directory), journal.read_parts(directory)
    done = list(parts.values())
    return {
        "finished": (directory / journal.SUCCESS).exists(),
        "parts": len(done),
        "rows": sum(part.rows for part in done),
        "written": sum(part.written for part in done),
        "rejected": sum(len(part.rejected) for part in done),
        "tokens": sum(part.tokens for part in done),
        "bytes": sum(part.bytes for part in done),
        "model": job["model"],
    }


def overlapped(operator: TableEmbedder, tables: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """The engine of one machine: while one table is embedded, the next one is tokenized in a thread."""
    pa = arrow()
    for number, group in itertools.groupby(_embedded(operator, tables), key=lambda pair: pair[0]):
        yield number, pa.concat_tables([table for _, table in group])


def _embedded(operator: TableEmbedder, tables: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    ahead: deque[tuple[int, Any, Task[list[Tokens | InputError]]]] = deque()
    try:
        for number, table in tables:
            ahead.append((number, table, Task(partial(operator.tokenize, table), "gte-tokenize")))
            ahead[-1][2].start()
            if len(ahead) > 1:
                yield _next(operator, ahead)
        while ahead:
            yield _next(operator, ahead)
    finally:
        for _, _, task in ahead:
            task.end()


def _next(
    operator: TableEmbedder, ahead: deque[tuple[int, Any, Task[list[Tokens | InputError]]]]
) -> tuple[int, Any]:
    number, table, task = ahead[0]
    tokens = task.result()
    ahead.popleft()
    return number, operator.embed(table, tokens)


def _check_input(path: str) -> None:
    rows.check_source(path)
    if path == "-" or not Path(path).is_file():
        raise InputFileError(
            "a job reads files, because it reads them again when it is resumed; `gte embed` reads pipes"
        )


def _description(request: Request, paths: Sequence[str]) -> dict[str, Any]:
    """All that decides what the parts hold."""
    bundle = locate(request.model)
    identity = hashlib.sha256((bundle / manifest.FILE).read_bytes()).hexdigest()
    wanted = asdict(request.wanted)
    if wanted["unicode"] is None:
        del wanted["unicode"]  # so that jobs which were begun before there was this option go on
    return {
        "model": {"manifest": identity},
        "options": {
            **wanted,
            "rows_per_part": request.rows_per_part,
            "format": request.form,
            "text_field": request.fields.text,
            "id_field": request.fields.id,
            "keep": list(request.fields.keep),
        },
        "inputs": [_identity(path) for path in paths],
    }


def _identity(path: str) -> dict[str, Any]:
    facts = os.stat(path)
    return {"path": os.path.abspath(path), "bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}


def _kinds(first: Sequence[Row], fields: Fields) -> dict[str, str]:
    """The types of the columns of ids and carried fields: those of their values in the first window."""
    kinds = {"id": kind_of(row.id for row in first) or "string"}
    return kinds | {name: kind_of(row.kept.get(name) for row in first) or "string" for name in fields.keep}


def _tables(
    pa: Any, each: Iterator[Row], kinds: dict[str, str], request: Request, done: set[int]
) -> Iterator[tuple[int, Any]]:
    """Tables of at most WINDOW rows of those parts that are not done."""
    window: list[tuple[int, Row]] = []
    size = 0
    number = 0
    for index, row in enumerate(each):
        part = index // request.rows_per_part
        if window and (part != number or len(window) == WINDOW or size > WINDOW_BYTES):
            yield number, _table(pa, window, kinds)
            window, size = [], 0
        number = part
        if part not in done:
            window.append((index, _checked(row, kinds)))
            size += len(row.text) if isinstance(row.text, str) else 0
    if window:
        yield number, _table(pa, window, kinds)


def _checked(row: Row, kinds: dict[str, str]) -> Row:
    """The row, with a problem if its id or a carried field does not fit the column's type."""
    if row.problem is not None:
        return row
    for name, value in {"id": row.id, **row.kept}.items():
        if not fits(value, kinds[name]):
            problem = f"{name} is {type(value).__name__}, and the first rows have {kinds[name]} there"
            return replace(row, text=None, problem=problem)
    if not isinstance(row.text, str):
        return replace(row, text=None, problem=f"the text is {_json_kind(row.text)}")
    try:
        row.text.encode()
    except UnicodeEncodeError:
        return replace(
            row, text=None, problem="the text holds half a surrogate pair, or bytes that are no UTF-8"
        )
    return row


def _json_kind(value: object) -> str:
    return {type(None): "missing (null)", bool: "a boolean", list: "a list", dict: "an object"}.get(
        type(value), "a number"
    )


def _table(pa: Any, window: Sequence[tuple[int, Row]], kinds: dict[str, str]) -> Any:
    """Columns index, id, the carried ones, text, and facts of the row that begin with an underscore."""
    types = {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(), "string": pa.string()}
    each = [row for _, row in window]
    columns = {"index": pa.array([index for index, _ in window], pa.int64())}
    for name, kind in kinds.items():
        values = [row.id if name == "id" else row.kept.get(name) for row in each]
        usable = [cell(value, kind) if fits(value, kind) else None for value in values]
        columns[name] = pa.array(usable, types[kind])
    columns["text"] = pa.array([row.text for row in each], pa.large_string())
    columns["_file"] = pa.array([row.source for row in each], pa.string())
    columns["_line"] = pa.array([row.number for row in each], pa.int64())
    columns["_problem"] = pa.array([row.problem for row in each], pa.string())
    return pa.table(columns)


def _write_parts(
    pa: Any,
    book: Journal,
    found: Iterator[tuple[int, Any]],
    request: Request,
    report: Report,
    read: rows.Rows,
) -> None:
    resumed = sum(part.rows for part in book.parts.values())
    began = time.monotonic()

    def tell() -> None:
        parts = book.parts.values()
        rejected = sum(len(part.rejected) for part in parts)
        done, tokens = sum(part.rows for part in parts), sum(part.tokens for part in parts)
        report(Progress(done, read.total, rejected, tokens, resumed))
        if request.max_rejected is not None and rejected > request.max_rejected:
            raise InputFileError(
                f"{rejected} rows were rejected, and {request.max_rejected} are allowed; the last one: "
                f"{_last_rejected(parts)}"
            )

    tell()
    for number, table in found:
        _add(pa, book, number, table, time.monotonic() - began)
        began = time.monotonic()
        tell()


def _last_rejected(parts: Iterable[Part]) -> str:
    row = [row for part in parts for row in part.rejected][-1]
    return f"{row['file']} line {row['line']}: {row['reason']}".strip()


def _add(pa: Any, book: Journal, number: int, table: Any, seconds: float) -> None:
    """Write one whole part: the rows with vectors into its file, the others into its line of the journal."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = table.sort_by("index")
    good = table.filter(pc.is_null(table.column("error")))
    bad = table.filter(pc.is_valid(table.column("error")))
    rejected = [
        {
            "index": row["index"],
            "file": row["_file"],
            "line": row["_line"],
            "id": row["id"],
            "reason": row["_problem"] or row["error"],
        }
        for row in bad.select(["index", "id", "_file", "_line", "_problem", "error"]).to_pylist()
    ]
    stored = good.drop_columns(["_file", "_line", "_problem", "error"]).combine_chunks()
    facts = {
        "rows": table.num_rows,
        "written": good.num_rows,
        "tokens": pc.sum(good.column("tokens")).as_py() or 0,
        "truncated": pc.sum(good.column("truncated")).as_py() or 0,
        "seconds": round(seconds, 3),
        "rejected": rejected,
    }
    # Without checksums a damaged page would be read as other values.
    book.add(
        number, lambda file: pq.write_table(stored, file, write_page_checksum=True, compression="zstd"), facts
    )


@contextlib.contextmanager
def _disk_errors(book: Journal, read: rows.Rows) -> Iterator[None]:
    """Turns errors of the disk into an OutputError that says how much space is needed."""
    try:
        yield
    except GteError:
        raise
    except OSError as error:
        parts = list(book.parts.values())
        done, size = sum(part.rows for part in parts), sum(part.bytes for part in parts)
        needed = ""
        if done and read.total:
            left = max(0, read.total - done)
            needed = f"; about {left * size / done / 1e6:.1f} MB are needed for the {left} rows that are left"
        elif done:
            needed = f"; 1,000 rows need {size / done / 1e3:.1f} MB"
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise OutputError(f"{book.directory.name}: {reason}{needed}; the same command goes on") from None


def _summary(book: Journal, request: Request) -> dict[str, Any]:
    parts = book.in_order()
    total = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("rows", "written", "tokens", "truncated", "seconds", "bytes")
    }
    seconds, written = total["seconds"], total["written"]
    summary = {**total, "seconds": round(seconds, 3), "rejected": sum(len(part.rejected) for part in parts)}
    if written and seconds:
        summary |= {
            "rows_per_second": round(written / seconds, 1),
            "tokens_per_second": round(total["tokens"] / seconds, 1),
            "a_billion_texts": {
                "days_on_this_machine": round(BILLION / (written / seconds) / 86400, 2),
                "terabytes": round(total["bytes"] / written * BILLION / 1e12, 3),
            },
        }
    return summary
