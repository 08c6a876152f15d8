"""Vectors to JSONL, npy, npz or parquet. Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import click
import numpy as np
from numpy.typing import NDArray

from ..embedder import Embeddings
from ..errors import OutputError

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".npy": "npy", ".npz": "npz", ".parquet": "parquet"}


class Writer(Protocol):
    def write(self, part: Embeddings, ids: list[Any]) -> None: ...
    def finish(self) -> None: ...


def format_of(output: str, form: str | None) -> str:
    return form or SUFFIXES.get(Path(output).suffix, "jsonl")


def check(output: str, form: str, *, dense: bool) -> None:
    """What can be known before the model loads: a terminal, a missing directory, a missing package."""
    if form == "npy" and not dense:
        raise click.UsageError("npy holds dense vectors only; use npz or jsonl for sparse ones")
    if form == "parquet":
        _pyarrow()
    if output == "-":
        if form != "jsonl" and sys.stdout.isatty():
            raise click.UsageError(f"{form} is binary and stdout is a terminal; name a file with -o")
        return
    path = Path(output)
    if path.is_dir():
        raise OutputError(f"{path.name} is a directory; name a file")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the directory of {path.name} is missing or not writable")


@contextlib.contextmanager
def open_writer(output: str, form: str, dim: int, width: int, dense: bool, sparse: bool) -> Iterator[Writer]:
    """A writer whose file takes its name when everything is written.

    Raises:
        OutputError: the file cannot be written.
    """
    with _target(output) as file:
        writer = WRITERS[form](file, dim, width, dense, sparse)
        yield writer
        writer.finish()


@contextlib.contextmanager
def _target(output: str) -> Iterator[IO[bytes]]:
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    if path.exists() and not path.is_file():
        with path.open("wb") as file:  # a device or pipe cannot be replaced
            yield file
        return
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path.name}: {error.strerror}") from None
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


class Jsonl:
    """One object per text: index, id where the input had one, tokens, truncated, dense, sparse."""

    def __init__(self, file: IO[bytes], dim: int, width: int, dense: bool, sparse: bool) -> None:
        self._file = file

    def write(self, part: Embeddings, ids: list[Any]) -> None:
        for row, identity in enumerate(ids):
            fields = {"index": str(int(part.index[row]))}
            if identity is not None:
                fields["id"] = json.dumps(identity, ensure_ascii=False)
            fields |= {"tokens": str(int(part.tokens[row])), "truncated": json.dumps(bool(part.truncated[row]))}
            if part.dense is not None:
                fields["dense"] = _numbers(part.dense[row])
            if part.sparse is not None:
                vector = part.sparse[row]
                fields["sparse"] = f'{{"indices": {_numbers(vector.indices)}, "values": {_numbers(vector.values)}}}'
            body = ", ".join(f'"{name}": {value}' for name, value in fields.items())
            self._file.write(f"{{{body}}}\n".encode())

    def finish(self) -> None:
        self._file.flush()


class Npy:
    """Dense vectors, float32 [N, dim]."""

    def __init__(self, file: IO[bytes], dim: int, width: int, dense: bool, sparse: bool) -> None:
        self._file = file
        self._parts: list[NDArray[np.float32]] = [np.zeros((0, dim), np.float32)]

    def write(self, part: Embeddings, ids: list[Any]) -> None:
        assert part.dense is not None
        self._parts.append(part.dense)

    def finish(self) -> None:
        # Through bytes: numpy writes to a real file by its descriptor, which a pipe does not have.
        np.lib.format.write_array(self._file, np.concatenate(self._parts), allow_pickle=False)


class Npz:
    """dense, tokens, truncated, index, and the sparse rows as scipy.sparse.load_npz reads them."""

    def __init__(self, file: IO[bytes], dim: int, width: int, dense: bool, sparse: bool) -> None:
        self._file, self._dim, self._width, self._dense, self._sparse = file, dim, width, dense, sparse
        self._parts: list[Embeddings] = []

    def write(self, part: Embeddings, ids: list[Any]) -> None:
        self._parts.append(part)

    def finish(self) -> None:
        arrays: dict[str, Any] = {
            "tokens": np.concatenate([np.zeros(0, np.int64), *(p.tokens for p in self._parts)]),
            "truncated": np.concatenate([np.zeros(0, np.bool_), *(p.truncated for p in self._parts)]),
            "index": np.concatenate([np.zeros(0, np.int64), *(p.index for p in self._parts)]),
        }
        if self._dense:
            arrays["dense"] = np.concatenate([np.zeros((0, self._dim), np.float32), *(p.dense for p in self._parts if p.dense is not None)])
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
        if self._file.seekable():
            np.savez(self._file, allow_pickle=False, **arrays)
            return
        with tempfile.TemporaryFile() as whole:  # a zip file is finished at its end, by going back
            np.savez(whole, allow_pickle=False, **arrays)
            whole.seek(0)
            while chunk := whole.read(1 << 20):
                self._file.write(chunk)


class Parquet:
    """Columns index, id, tokens, truncated, dense (fixed size list), sparse_indices, sparse_values."""

    def __init__(self, file: IO[bytes], dim: int, width: int, dense: bool, sparse: bool) -> None:
        pa, pq = _pyarrow()
        fields = [("index", pa.int64()), ("id", pa.string()), ("tokens", pa.int32()), ("truncated", pa.bool_())]
        fields += [("dense", pa.list_(pa.float32(), dim))] if dense else []
        fields += [("sparse_indices", pa.list_(pa.int32())), ("sparse_values", pa.list_(pa.float32()))] if sparse else []
        self._pa, self._dim = pa, dim
        self._schema = pa.schema(fields)
        # A damaged page without a checksum gives other values and no error.
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
            columns["dense"] = pa.FixedSizeListArray.from_arrays(pa.array(part.dense.ravel(), pa.float32()), self._dim)
        if part.sparse is not None:
            columns["sparse_indices"] = [v.indices for v in part.sparse]
            columns["sparse_values"] = [v.values for v in part.sparse]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def finish(self) -> None:
        self._writer.close()


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
