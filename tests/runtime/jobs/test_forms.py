"""What kind of file an input is."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gte_runtime.errors import InputFileError
from gte_runtime.jobs.forms import form_of, inner_name, packing_of

OBJECT, ARRAY = b'{"text": "a"}\n', b'[\n  {"text": "a"}\n]\n'


@pytest.mark.parametrize(
    ("head", "name", "form"),
    [
        (b"one\ntwo\n", "a.txt", "lines"),
        (b"one\ntwo\n", "", "lines"),
        (b"", "a.txt", "lines"),
        (b"", "", "lines"),
        (b"", "a.csv", "csv"),
        (OBJECT, "a.jsonl", "jsonl"),
        (OBJECT, "a.JSONL", "jsonl"),
        (OBJECT, "a.json", "jsonl"),
        (OBJECT, "a.txt", "jsonl"),
        (OBJECT, "", "jsonl"),
        (b"\xef\xbb\xbf" + OBJECT, "", "jsonl"),
        (b"\n \n" + OBJECT, "", "jsonl"),
        (b"{broken\n", "", "jsonl"),
        (b"not json\n", "a.jsonl", "jsonl"),
        (b"{name} said so\n", "a.txt", "lines"),
        (ARRAY, "a.json", "json"),
        (ARRAY, "a.txt", "json"),
        (ARRAY, "", "json"),
        (b'["a", "b"]', "", "json"),
        (b"[]", "a.json", "json"),
        (b"[1] A footnote\n", "a.txt", "lines"),
        (b'"a"\n"b"\n', "a.json", "jsonl"),
        (b'{\n "text": "a"\n}\n', "a.json", "json"),
        (b"[1] Smith, a\x00b\n{\n", "a.txt", "lines"),
        (b"id,text\n", "a.csv", "csv"),
        (b"id\ttext\n", "a.TSV", "tsv"),
        (b"id,text\n", "a", "lines"),
        (b"\x1b[1mbold\x1b[0m\n", "log", "lines"),
        (b"caf\xe9\n", "a.txt", "lines"),
    ],
)
def test_text(head: bytes, name: str, form: str):
    """By content where it says enough, and by the name where it does not."""
    assert form_of(head, name) == form


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), file)
    return file.getvalue()


def arrow(stream: bool) -> bytes:
    file, table = io.BytesIO(), pa.table({"text": ["a"]})
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def test_tables():
    """They are known by their first bytes, whatever their name."""
    for name in ("a.parquet", "a.txt", "a.jsonl", ""):
        assert form_of(parquet(), name) == "parquet"
        assert form_of(arrow(stream=True), name) == "arrow"
        assert form_of(arrow(stream=False), name) == "arrow"


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as each:
        each.writestr("word/document.xml", "<w/>")
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("head", "name", "reason"),
    [
        (b"%PDF-1.7\n%\xe2\xe3", "a.pdf", "a PDF"),
        (b"%PDF-1.7\n", "a.txt", "a PDF"),
        (archive(), "a.docx", "ZIP"),
        (array(), "a.npy", "NumPy"),
        (pickle.dumps(["a"]), "a.pkl", "pickle"),
        (pickle.dumps({"a": 1}, protocol=2), "a", "pickle"),
        ("hello\n".encode("utf-16"), "a.txt", "iconv -f UTF-16"),
        ("hello\n".encode("utf-16-le"), "a.txt", "iconv -f UTF-16LE"),
        ("hello\n".encode("utf-16-be"), "a.csv", "UTF-16"),
        ("hello\n".encode("utf-32"), "", "UTF-32"),
        (b"SQLite format 3\x00\x10", "a.db", "SQLite"),
        (b"\x01\x02\x03\x04 something\n", "data.bin", "binary data"),
        (b"ab\x00\n", "", "binary data"),
        (b"plain text\n", "a.json", "it is not JSON"),
        (b"plain text\n", "a.parquet", "named like a parquet file"),
        (b"", "a.parquet", "empty"),
        (OBJECT, "a.parquet", "named like a parquet file"),
        (b"\x89PNG\r\n\x1a\n", "a.png", "PNG"),
        (b"x" * 257 + b"ustar\x00", "a.tar", "tar"),
    ],
)
def test_what_is_refused(head: bytes, name: str, reason: str):
    """It is named, and so is the way out where there is one."""
    with pytest.raises(InputFileError, match=reason):
        form_of(head, name)


def test_compressed():
    """By the first bytes; the name before the suffix is the name of the content."""
    assert packing_of(gzip.compress(b"a")) == "gzip"
    assert packing_of(b"\x28\xb5\x2f\xfd\x04") == "zstd"
    assert packing_of(b"plain") is None
    assert [inner_name(name) for name in ("a.csv.gz", "a.JSONL.ZST", "a.gz", "a.csv")] == [
        "a.csv",
        "a.JSONL",
        "a",
        "a.csv",
    ]
