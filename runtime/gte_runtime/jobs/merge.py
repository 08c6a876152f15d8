"""The parts of a finished job as one file or dataset."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, OutputError
from ..machine.files import sync
from . import journal
from .journal import Part
from .tables import arrow

FORMATS = ("npy", "npz", "lance")


def merge(directory: Path, form: str, output: Path | None = None) -> list[Path]:
    """Write all rows of a job in input order. Returns what was written.

    npy holds the dense vectors, and a Parquet file beside it the other columns of the same rows. npz holds
    all columns; its sparse vectors are what `scipy.sparse.load_npz` reads. lance is a dataset of all columns.

    Args:
        directory: of the job.
        form: one of FORMATS.
        output: where to write; by default "merged.FORM" in the job's directory.

    Raises:
        OutputError: the job is not finished, or the output cannot be written.
    """
    job = journal.read_job(directory)
    if not (directory / journal.SUCCESS).exists():
        raise OutputError(
            f"{directory.name} is not finished; run the same `gte job run` again, and merge then"
        )
    parts = sorted(journal.read_parts(directory).values(), key=lambda part: part.part)
    for part in parts:
        if not (directory / part.name).is_file() or (directory / part.name).stat().st_size != part.bytes:
            raise OutputError(
                f"{directory.name}/{part.name} is missing or was changed; run `gte job run` again"
            )
    output = output or directory / f"merged.{form}"
    options = job["options"]
    if form == "npy" and not options["dense"]:
        raise ConfigError("npy holds dense vectors, and this job has none; use npz")
    try:
        return {"npy": _npy, "npz": _npz, "lance": _lance}[form](directory, parts, output)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{output.name}: {error.strerror or error}") from None


def tables(directory: Path, parts: list[Part]) -> Iterator[Any]:
    """The table of each part, in input order."""
    arrow()
    import pyarrow.parquet as pq

    for part in parts:
        with pq.ParquetFile(directory / part.name, page_checksum_verification=True) as file:
            yield file.read()


def _matrix(column: Any) -> Any:
    """A column of lists of fixed size as an array [N, dim]."""
    column = column.combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def _npy(directory: Path, parts: list[Part], output: Path) -> list[Path]:
    import pyarrow.parquet as pq

    count = sum(part.written for part in parts)
    beside, index = _beside(output), output.with_suffix(".rows.parquet")
    beside_index = _beside(index)
    writer = matrix = None
    start = 0
    try:
        for table in tables(directory, parts):
            block = _matrix(table.column("dense"))
            if matrix is None:
                matrix = np.lib.format.open_memmap(
                    beside, "w+", dtype=block.dtype, shape=(count, block.shape[1])
                )
            others = table.drop_columns(["dense"])
            writer = writer or pq.ParquetWriter(beside_index, others.schema, write_page_checksum=True)
            writer.write_table(others)
            matrix[start : start + len(block)] = block
            start += len(block)
        if matrix is None or writer is None:
            raise OutputError(f"{directory.name} has no rows")
        matrix.flush()
        writer.close()
        _put(beside, output)
        _put(beside_index, index)
    finally:
        beside.unlink(missing_ok=True)
        beside_index.unlink(missing_ok=True)
    return [output, index]


def _npz(directory: Path, parts: list[Part], output: Path) -> list[Path]:
    pa = arrow()
    whole = pa.concat_tables(tables(directory, parts))
    arrays: dict[str, Any] = {}
    for name in whole.column_names:
        if name in ("sparse_indices", "sparse_values"):
            continue
        column = whole.column(name)
        arrays[name] = _matrix(column) if name == "dense" else _values(column)
    if "sparse_indices" in whole.column_names:
        job = journal.read_job(directory)
        lists = whole.column("sparse_indices").combine_chunks()
        arrays |= {
            "data": whole.column("sparse_values").combine_chunks().flatten().to_numpy(),
            "indices": lists.flatten().to_numpy(),
            "indptr": np.asarray(lists.offsets, np.int64),
            "shape": np.array([len(lists), job["model"]["vocabulary"]]),
            "format": np.array(b"csr"),
        }
    beside = _beside(output)
    try:
        with beside.open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        _put(beside, output)
    finally:
        beside.unlink(missing_ok=True)
    return [output]


def _values(column: Any) -> Any:
    """A column as an array without objects: strings as numpy's, with "" where one is missing."""
    values = column.to_pylist()
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else value for value in values], np.str_)
    if all(value is None for value in values):
        return np.array([""] * len(values), np.str_)
    if any(value is None for value in values):
        return np.array([json.dumps(value) if value is not None else "" for value in values], np.str_)
    return np.array(values)


def _lance(directory: Path, parts: list[Part], output: Path) -> list[Path]:
    pa = arrow()
    try:
        import lance
    except ImportError:
        raise ConfigError("lance needs pylance: pip install pylance") from None
    if output.exists():
        raise OutputError(f"{output.name} exists; name another with -o")
    each = tables(directory, parts)
    first = next(each)
    whole = (batch for table in (first, *each) for batch in table.to_batches())
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        lance.write_dataset(pa.RecordBatchReader.from_batches(first.schema, whole), str(staging / "lance"))
        os.rename(staging / "lance", output)
        sync(output.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [output]


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _put(beside: Path, path: Path) -> None:
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync(path.parent)
