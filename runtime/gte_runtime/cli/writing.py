"""Writes vectors as JSONL, npy, npz or parquet. A file appears complete or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import click
import numpy as np
from numpy.typing import NDArray

from ..errors import GteError, OutputError
from ..results import Embeddings
from .terminal import json_text, tell

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".npy": "npy", ".npz": "npz", ".parquet": "parquet"}

OTHER_SUFFIXES = (
    *(
        ".csv",
        ".tsv",
        ".json",
        ".xlsx",
        ".xls",
        ".arrow",
        ".feather",
        ".pkl",
        ".pickle",
        ".pt",
        ".safetensors",
    ),
    *(".h5", ".hdf5", ".gz", ".zst", ".zip"),
)


class Writer(Protocol):
    """One output format. Made with (file, dimension of dense vectors, width of sparse ones, dense,
    sparse)."""

    def write(self, part: Embeddings, ids: list[Any]) -> None: ...
    def finish(self) -> None: ...


def format_of(output: str, form: str | None) -> str:
    """The wanted format, otherwise the one of the file name's suffix, otherwise jsonl.

    Raises UsageError for a suffix of another kind of file, which would hold something else than it says.
    """
    suffix = Path(output).suffix.lower()
    if form is None and suffix in OTHER_SUFFIXES:
        raise click.UsageError(
            f"vectors are not written as {suffix}; write .jsonl, .npy, .npz or .parquet, or use --format"
        )
    return form or SUFFIXES.get(suffix, "jsonl")


def check(output: str, form: str, sources: Sequence[str], *, dense: bool) -> None:
    """Check what can be checked before the model loads: binary data for a terminal, a missing directory or
    package, an output that is the input."""
    if form == "npy" and not dense:
        raise click.UsageError("npy holds dense vectors only; use npz or jsonl for sparse ones")
    if form == "parquet":
        _pyarrow()
    if output == "-":
        if form != "jsonl" and sys.stdout.isatty():
            raise click.UsageError(f"{form} is binary and stdout is a terminal; name a file with -o")
        return
    path = Path(output)
    name = (path.name or output)[:80]
    try:
        there = path.stat()
    except FileNotFoundError:
        there = None
    except (OSError, ValueError) as error:
        raise OutputError(f"{name}: {getattr(error, 'strerror', error)}") from None
    if there is not None and stat.S_ISDIR(there.st_mode):
        raise OutputError(f"{name} is a directory; name a file")
    if there is not None and stat.S_ISREG(there.st_mode) and _is_input(there, sources):
        raise OutputError(f"{name} is the input, which would be lost; name another file")
    if not os.access(path.resolve().parent, os.W_OK):
        raise OutputError(f"the directory of {name} is missing or not writable")


def _is_input(there: os.stat_result, sources: Sequence[str]) -> bool:
    for source in sources:
        # stdin may have no descriptor or be closed; a pattern is no file
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if os.path.samestat(there, os.fstat(sys.stdin.fileno()) if source == "-" else os.stat(source)):
                return True
    return False


@contextlib.contextmanager
def open_writer(output: str, form: str, dim: int, width: int, dense: bool, sparse: bool) -> Iterator[Writer]:
    """A writer. Its file gets its name at the end, when it is complete.

    Args:
        output: a path, or "-" for stdout.
        form: a key of WRITERS.
        dim: values of a dense vector.
        width: an upper bound of sparse indices.
        dense, sparse: which vectors are written.

    Raises:
        OutputError: the file cannot be written.
    """
    with _target(output) as file:
        writer = WRITERS[form](file, dim, width, dense, sparse)
        yield writer
        writer.finish()
    if isinstance(writer, Npy) and (lines := writer.beside()) is not None:
        if output == "-":
            tell("texts were rejected or cut, which npy does not say; npz does")
            return
        path = Path(output).with_suffix(".rows.jsonl")
        with _target(str(path)) as file:
            file.write(lines.encode())
        tell(f"texts were rejected or cut: {path.name} says which row is which text")


@contextlib.contextmanager
def _target(output: str) -> Iterator[IO[bytes]]:
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    name = Path(output).name
    try:
        path = Path(output).resolve()  # the target of a link is replaced, not the link
        # A device or pipe cannot be replaced.
        with path.open("wb") if path.exists() and not path.is_file() else _replacing(path) as file:
            yield file
    except (GteError, BrokenPipeError):
        raise
    except OSError as error:
        raise OutputError(f"{name}: {error.strerror or error}") from None


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file in the same directory, which replaces the file at the end. It keeps the mode of the
    file that it replaces."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("xb") as file:
        try:
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class Jsonl:
    """One object per text: index, id where the input had one, tokens, truncated, dense, sparse."""

    def __init__(self, file: IO[bytes], dim: int, width: int, dense: bool, sparse: bool) -> None:
        self._file = file

    def write(self, part: Embeddings, ids: list[Any]) -> None:
        for row, identity in enumerate(ids):
            fields = {"index": str(int(part.index[row]))}
            if identity is not None:
                fields["id"] = json_text(identity)
            fields |= {
                "tokens": str(int(part.tokens[row])),
                "truncated": json.dumps(bool(part.truncated[row])),
            }
            if part.dense is not None:
                fields["dense"] = _numbers(part.dense[row])
            if part.sparse is not None:
                vector = part.sparse[row]
                fields["sparse"] = (
                    f'{{"indices": {_numbers(vector.indices)}, "values": {_numbers(vector.values)}}}'
                )
            body = ", ".join(f'"{name}": {value}' for name, value in fields.items())
            self._file.write(f"{{{body}}}\n".encode())
        self._file.flush()  # a program at the other end of a pipe may wait for it

    def finish(self) -> None:
        pass


class Npy:
    """Dense vectors, float32 [N, dim], written part by part; facts of their rows go into a file beside it."""

    def __init__(self, file: IO[bytes], dim: int, width: int, dense: bool, sparse: bool) -> None:
        self._file, self._dim, self._count = file, dim, 0
        self._lines: list[str] = []
        self._beside = False
        # The header has N, which is known at the end only. Stdout may be a pipe, or a file that is appended
        # to, where one cannot go back.
        self._whole = tempfile.TemporaryFile() if file is sys.stdout.buffer or not file.seekable() else file  # noqa: SIM115
        self._write_header()

    def write(self, part: Embeddings, ids: list[Any]) -> None:
        assert part.dense is not None
        self._whole.write(np.ascontiguousarray(part.dense, "<f4").data)
        self._count += len(part)
        self._beside |= bool(part.rejected) or bool(part.truncated.any())
        for row, identity in enumerate(ids):
            facts = {"index": int(part.index[row]), "id": identity, "tokens": int(part.tokens[row])}
            self._lines.append(json_text({**facts, "truncated": bool(part.truncated[row])}) + "\n")

    def finish(self) -> None:
        self._whole.seek(0)
        self._write_header()
        _hand_over(self._whole, self._file)

    def beside(self) -> str | None:
        """The rows' places in the input as JSON lines, where the array alone would mislead: texts were
        rejected or cut."""
        return "".join(self._lines) if self._beside else None

    def _write_header(self) -> None:
        """It has the same size for every N: numpy leaves room for 20 digits."""
        facts = {"descr": "<f4", "fortran_order": False, "shape": (self._count, self._dim)}
        np.lib.format.write_array_header_1_0(self._whole, facts)


class Npz:
    """dense, tokens, truncated, index, id where the input had ids, and the sparse rows as
    scipy.sparse.load_npz reads them."""

    def __init__(self, file: IO[bytes], dim: int, width: int, dense: bool, sparse: bool) -> None:
        self._file, self._dim, self._width, self._dense, self._sparse = file, dim, width, dense, sparse
        self._parts: list[Embeddings] = []
        self._ids: list[Any] = []

    def write(self, part: Embeddings, ids: list[Any]) -> None:
        self._parts.append(part)
        self._ids += ids

    def finish(self) -> None:
        arrays: dict[str, Any] = {
            "tokens": np.concatenate([np.zeros(0, np.int64), *(p.tokens for p in self._parts)]),
            "truncated": np.concatenate([np.zeros(0, np.bool_), *(p.truncated for p in self._parts)]),
            "index": np.concatenate([np.zeros(0, np.int64), *(p.index for p in self._parts)]),
        }
        if any(identity is not None for identity in self._ids):
            arrays["id"] = _id_array(self._ids)
        if self._dense:
            arrays["dense"] = np.concatenate(
                [np.zeros((0, self._dim), np.float32), *(p.dense for p in self._parts if p.dense is not None)]
            )
        if self._sparse:
            from ..sparse import SparseVectors

            csr = SparseVectors((v for p in self._parts for v in p.sparse or ()), self._width).to_csr()
            arrays |= {
                "data": csr.data,
                "indices": csr.indices,
                "indptr": csr.indptr,
                "shape": np.array(csr.shape),
                "format": np.array(b"csr"),
            }
        if self._file is not sys.stdout.buffer and self._file.seekable():
            np.savez(self._file, allow_pickle=False, **arrays)
            return
        whole = tempfile.TemporaryFile()  # writing a zip file needs to go back  # noqa: SIM115
        np.savez(whole, allow_pickle=False, **arrays)
        _hand_over(whole, self._file)


def _id_array(ids: list[Any]) -> NDArray[Any]:
    """Integers as int64; everything else as strings, JSON where it was none, and "" where there is none."""
    if all(type(identity) is int and -(2**63) <= identity < 2**63 for identity in ids):
        return np.array(ids, np.int64)
    return np.array(
        ["" if i is None else i if isinstance(i, str) else json.dumps(i, ensure_ascii=False) for i in ids]
    )


class Parquet:
    """Columns index, id, tokens, truncated, dense (fixed size list), sparse_indices, sparse_values."""

    def __init__(self, file: IO[bytes], dim: int, width: int, dense: bool, sparse: bool) -> None:
        pa, pq = _pyarrow()
        fields = [
            ("index", pa.int64()),
            ("id", pa.string()),
            ("tokens", pa.int32()),
            ("truncated", pa.bool_()),
        ]
        fields += [("dense", pa.list_(pa.float32(), dim))] if dense else []
        fields += (
            [("sparse_indices", pa.list_(pa.int32())), ("sparse_values", pa.list_(pa.float32()))]
            if sparse
            else []
        )
        self._pa, self._dim = pa, dim
        self._schema = pa.schema(fields)
        # Without checksums a damaged page would be read as other values.
        self._writer = pq.ParquetWriter(file, self._schema, write_page_checksum=True)

    def write(self, part: Embeddings, ids: list[Any]) -> None:
        pa = self._pa
        columns: dict[str, Any] = {
            "index": part.index,
            "id": [None if i is None else i if isinstance(i, str) else json.dumps(i) for i in ids],
            "tokens": part.tokens.astype(np.int32),
            "truncated": part.truncated,
        }
        if part.dense is not None:
            columns["dense"] = pa.FixedSizeListArray.from_arrays(
                pa.array(part.dense.ravel(), pa.float32()), self._dim
            )
        if part.sparse is not None:
            columns["sparse_indices"] = [v.indices for v in part.sparse]
            columns["sparse_values"] = [v.values for v in part.sparse]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def finish(self) -> None:
        self._writer.close()


def _hand_over(whole: IO[bytes], file: IO[bytes]) -> None:
    """Copy a temporary file to its destination, unless it was written there."""
    if whole is file:
        return
    with whole:
        whole.seek(0)
        shutil.copyfileobj(whole, file, 1 << 20)


WRITERS: dict[str, Callable[[IO[bytes], int, int, bool, bool], Writer]] = {
    "jsonl": Jsonl,
    "npy": Npy,
    "npz": Npz,
    "parquet": Parquet,
}


def _numbers(values: NDArray[Any]) -> str:
    """The shortest decimals that read back as the same float32."""
    return "[" + ", ".join(values.astype("U").tolist()) + "]"


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise click.UsageError("parquet needs pyarrow: pip install 'gte-runtime[arrow]'") from None
    return pa, pq
