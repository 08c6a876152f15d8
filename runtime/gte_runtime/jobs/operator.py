"""Tables with a column of text in, tables with columns of vectors out: one callable for jobs, Ray, Daft and
Spark. A table is a `pyarrow.Table`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..embedder import Embedder
from ..errors import ConfigError, InputError
from ..results import Embeddings
from ..tokenization import Form, Tokens
from .columns import DTYPES, dense_column
from .tables import arrow


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which vectors are made of a text. All that decides the values of an output, but for the model."""

    dense: bool = True
    sparse: bool = False
    dim: int | None = None
    dtype: str = "float32"
    """One of `columns.DTYPES`."""
    sparse_top: int | None = None
    """How many of the largest weights of a sparse vector are kept; None is all."""
    max_length: int | None = None
    truncate: bool = True
    prompt_name: str | None = None
    unicode: Form | None = None

    def __post_init__(self) -> None:
        if not self.dense and not self.sparse:
            raise ConfigError("dense=False and sparse=False leave nothing to write")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype is {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        top = self.sparse_top
        if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
            raise ConfigError(f"sparse_top is {top!r}; expected an integer of at least 1")

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `Embedder.stream`."""
        return {
            "dense": self.dense,
            "sparse": self.sparse,
            "dim": self.dim,
            "max_length": self.max_length,
            "truncate": self.truncate,
            "prompt_name": self.prompt_name,
            "unicode": self.unicode,
        }


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine runs. It decides no value but by the variant."""

    variant: str | None = None
    provider: str = "cpu"
    threads: int | None = None
    devices: tuple[int, ...] = (0,)
    gpu_mem_limit: int | None = None

    def open(self, model: str) -> Embedder:
        return Embedder.open(
            model,
            variant=self.variant,
            provider=self.provider,
            threads=self.threads,
            devices=self.devices,
            gpu_mem_limit=self.gpu_mem_limit,
        )


@dataclass(slots=True)
class TableEmbedder:
    """Embeds the column `text` of a table. It can be pickled: a copy opens the model again at its first call.

    The result has the other columns as they were, and after them `tokens` int32, `truncated` bool, `dense` as
    a list of fixed size, `sparse_indices` list<int32> and `sparse_values` list<float32>, and `error`, which
    is null for a row that has vectors and otherwise says why it has none.
    """

    model: str = "gte-mini"
    text: str = "text"
    wanted: Wanted = Wanted()
    place: Place = Place()
    keep_text: bool = False
    _embedder: Embedder | None = field(default=None, init=False, repr=False)
    _dim: int = field(default=0, init=False, repr=False)
    _sparse: bool = field(default=False, init=False, repr=False)

    def __call__(self, table: Any) -> Any:
        """The table with vectors. Raises ConfigError for a table without the column of the text."""
        return self.embed(table, self.tokenize(table))

    def tokenize(self, table: Any) -> list[Tokens | InputError]:
        """The first half of a call: the tokens of each text, or why it was refused. It may run in a thread
        while another table is embedded."""
        if self.text not in table.column_names:
            there = ", ".join(table.column_names)
            raise ConfigError(f"the table has no column {self.text!r}; its columns are {there}")
        wanted = self.wanted
        tokenize = self.opened().steps.tokenize_part(
            wanted.max_length, wanted.truncate, prompt_name=wanted.prompt_name, unicode=wanted.unicode
        )
        return tokenize(table.column(self.text).to_pylist(), 0)

    def embed(self, table: Any, tokens: list[Tokens | InputError]) -> Any:
        """The second half: the table with vectors."""
        pa, steps, wanted = arrow(), self.opened().steps, self.wanted
        out = steps.run_part(0, tokens, wanted.dense, self._sparse, self._dim)
        kept = table if self.keep_text else table.drop_columns([self.text])
        made = vectors(pa, out, table.num_rows, wanted, self._dim)
        columns = {name: kept.column(name) for name in kept.column_names if name not in made} | made
        return pa.table(columns)

    def batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """`pyarrow.RecordBatch`es to such, one by one: what Spark's `mapInArrow` calls."""
        pa = arrow()
        for batch in batches:
            yield from self(pa.Table.from_batches([batch])).to_batches()

    def schema(self, schema: Any) -> Any:
        """The Arrow schema of the result for tables of this schema."""
        return self(schema.empty_table()).schema

    def opened(self) -> Embedder:
        """The model, opened at the first call."""
        if self._embedder is None:
            embedder = self.place.open(self.model)
            self._dim = embedder.steps.check_dim(self.wanted.dim)
            self._sparse = embedder.steps.check_sparse(self.wanted.sparse)
            self._embedder = embedder
        return self._embedder

    def close(self) -> None:
        """Close the model."""
        if self._embedder is not None:
            self._embedder.close()
            self._embedder = None

    def __getstate__(self) -> tuple[Any, ...]:
        return self.model, self.text, self.wanted, self.place, self.keep_text

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.model, self.text, self.wanted, self.place, self.keep_text = state
        self._embedder = None


def vectors(pa: Any, out: Embeddings, count: int, wanted: Wanted, dim: int) -> dict[str, Any]:
    """Columns for `count` texts, of which `out` has vectors or errors, counted from 0."""
    rows = out.index.tolist()
    tokens = np.zeros(count, np.int32)
    truncated = np.zeros(count, np.bool_)
    missing = np.ones(count, np.bool_)
    tokens[rows], truncated[rows], missing[rows] = out.tokens, out.truncated, False
    columns = {
        "tokens": pa.array(tokens, mask=missing),
        "truncated": pa.array(truncated, mask=missing),
    }
    if wanted.dense:
        dense = out.dense if out.dense is not None else np.zeros((0, dim), np.float32)
        columns["dense"] = dense_column(pa, dense, rows, count, wanted.dtype)
    if wanted.sparse:
        sparse = (
            out.sparse
            if wanted.sparse_top is None or out.sparse is None
            else out.sparse.top(wanted.sparse_top)
        )
        indices: list[Any] = [None] * count
        values: list[Any] = [None] * count
        for row, vector in zip(rows, sparse or (), strict=True):
            indices[row], values[row] = vector.indices, vector.values
        columns["sparse_indices"] = pa.array(indices, pa.list_(pa.int32()))
        columns["sparse_values"] = pa.array(values, pa.list_(pa.float32()))
    errors: list[str | None] = [None] * count
    for one in out.rejected:
        errors[one.index] = one.error.reason if isinstance(one.error, InputError) else str(one.error)
    columns["error"] = pa.array(errors, pa.string())
    return columns
