"""Rows of Parquet and Arrow files, a batch at a time. The only place that reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import InputFileError
from .row import Fields, Read, Row, check_columns

BATCH = 256
"""Rows that are decoded at once. A small file may hold very long texts."""


def arrow() -> Any:
    """The package pyarrow. Raises InputFileError where it is missing."""
    try:
        import pyarrow as pa
    except ImportError:
        raise InputFileError("this form needs pyarrow: pip install 'gte-runtime[arrow]'") from None
    return pa


def parquet_rows(path: str) -> int:
    """The number of rows that a Parquet file says it has."""
    arrow()
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except Exception as error:  # noqa: BLE001 - pyarrow raises many kinds for a damaged file
        raise _damaged(error) from None


def table_rows(path: str, form: str, fields: Fields) -> Read:
    """The rows of a file.

    Raises:
        InputFileError: it is damaged, has no column of a given name, or the text's column holds no text.
    """
    number = 0
    for batch in _batches(path, form, fields):
        texts = _texts(batch.column(fields.text))
        names = batch.schema.names
        identities = batch.column(fields.id).to_pylist() if fields.id in names else [None] * len(texts)
        kept = [batch.column(name).to_pylist() for name in fields.keep]
        for n, text in enumerate(texts):
            number += 1
            carried = {name: values[n] for name, values in zip(fields.keep, kept, strict=True)}
            if isinstance(text, bytes):
                yield Row(None, number, identities[n], "not valid UTF-8", carried, unit="row")
            else:
                yield Row(text, number, _plain(identities[n]), None, carried, unit="row")


def _batches(path: str, form: str, fields: Fields) -> Iterator[Any]:
    """Batches of the text's column, the id's if there is one, and the kept ones."""
    pa = arrow()
    try:
        if form == "parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                columns = _wanted(file.schema_arrow, fields)
                read, expected = 0, file.metadata.num_rows
                for batch in file.iter_batches(BATCH, columns=columns):
                    read += batch.num_rows
                    yield batch.select(columns)
            # A damaged page's header may say that it has no rows, which pyarrow believes.
            if read != expected:
                raise InputFileError(f"it is damaged: it should have {expected} rows, and {read} were found")
            return
        with pa.memory_map(path) as source:
            yield from _arrow_batches(pa, source, fields)
    except InputFileError:
        raise
    except Exception as error:  # noqa: BLE001 - the same
        raise _damaged(error) from None


def _arrow_batches(pa: Any, source: Any, fields: Fields) -> Iterator[Any]:
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
    columns = _wanted(reader.schema, fields)
    batches: Iterable[Any] = (
        (reader.get_batch(n) for n in range(reader.num_record_batches)) if is_file else reader
    )
    for batch in batches:
        batch.validate(full=False)
        for start in range(0, batch.num_rows, BATCH):
            yield batch.slice(start, BATCH).select(columns)


def _wanted(schema: Any, fields: Fields) -> list[str]:
    import pyarrow.types as kinds

    check_columns(schema.names, fields)
    kind = schema.field(fields.text).type
    inner = kind.value_type if kinds.is_dictionary(kind) else kind
    texts = (kinds.is_string, kinds.is_large_string, getattr(kinds, "is_string_view", lambda kind: False))
    if not any(is_text(inner) for is_text in texts):
        there = ", ".join(f"{one.name!r} {one.type}" for one in list(schema)[:40])
        raise InputFileError(f"column {fields.text!r} is {kind}, not text; the columns are {there}")
    names = [fields.text, *([fields.id] if fields.id in schema.names else []), *fields.keep]
    return list(dict.fromkeys(names))


def _texts(column: Any) -> list[Any]:
    """Strings, None for nulls, and bytes where a value is no UTF-8: for such a value pyarrow itself refuses
    the whole batch."""
    import pyarrow as pa
    import pyarrow.types as kinds

    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    texts: list[Any] = []
    for value in column.cast(pa.large_string()).view(pa.large_binary()).to_pylist():
        try:
            texts.append(None if value is None else value.decode("utf-8"))
        except UnicodeDecodeError:
            texts.append(value)
    return texts


def _plain(identity: Any) -> Any:
    """An id that JSON can hold, too: dates and decimals as strings."""
    return identity if isinstance(identity, (str, int, float, type(None))) else json.loads(_text(identity))


def _text(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _damaged(error: Exception) -> InputFileError:
    return InputFileError(f"it cannot be read: {' '.join(str(error).split())[:200]}")
