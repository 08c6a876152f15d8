"""Tables in, tables out."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gte_runtime import Embedder
from gte_runtime.errors import ConfigError
from gte_runtime.jobs.operator import Place, TableEmbedder, Wanted

TEXTS = ["one", None, "", "北京 the capital", "one"]


@pytest.fixture
def operator(tiny_bundle: Path) -> TableEmbedder:
    return TableEmbedder(str(tiny_bundle), "body", Wanted(sparse=True), Place(threads=1))


def table() -> pa.Table:
    return pa.table({"key": pa.array(range(5)), "body": TEXTS, "date": pa.array([0] * 5, pa.date32())})


def test_columns(operator: TableEmbedder):
    """Other columns stay, vectors are those of encode, and a row without a text says why it has none."""
    made = operator(table())
    names = ["key", "date", "tokens", "truncated", "dense", "sparse_indices", "sparse_values", "error"]
    assert made.column_names == names
    good = [row for row, text in enumerate(TEXTS) if text is not None]
    with Embedder.open(operator.model, threads=1) as gte:
        out = gte.encode([TEXTS[row] for row in good], sparse=True)
    rows = made.to_pylist()
    assert out.dense is not None
    np.testing.assert_array_equal(np.array([rows[row]["dense"] for row in good], np.float32), out.dense)
    assert [rows[row]["error"] for row in good] == [None] * 4
    assert rows[1]["dense"] is None
    assert rows[1]["tokens"] is None
    assert "found NoneType" in rows[1]["error"]
    assert made.schema == operator.schema(table().schema)


def test_an_empty_table(operator: TableEmbedder):
    assert operator(table().slice(0, 0)).num_rows == 0


def test_a_copy_in_another_process(operator: TableEmbedder):
    """It is pickled without its model, opened or not, and opens it again."""
    made = operator(table())
    data = pickle.dumps(operator)
    assert len(data) < 2000
    assert pickle.loads(data)(table()).equals(made)


def test_batches(operator: TableEmbedder):
    """As Spark gives and takes them."""
    batches = list(operator.batches(table().to_batches(max_chunksize=2)))
    assert [batch.num_rows for batch in batches] == [2, 2, 1]
    assert pa.Table.from_batches(batches).equals(operator(table()))


def test_the_text_is_kept_if_wanted(operator: TableEmbedder):
    operator.keep_text = True
    assert operator(table()).column("body").to_pylist() == TEXTS


def test_what_is_refused(operator: TableEmbedder):
    with pytest.raises(ConfigError, match="no column 'body'; its columns are text"):
        operator(pa.table({"text": ["a"]}))
    for wrong in ({"dense": False}, {"dtype": "int4"}, {"sparse_top": 0}):
        with pytest.raises(ConfigError):
            Wanted(**wrong)
