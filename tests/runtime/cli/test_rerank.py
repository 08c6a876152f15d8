"""`gte rerank` as a user calls it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from command_line import COMMAND, gte, rows

from gte_runtime import Reranker


def test_rerank(reranker_bundle: Path):
    """Documents from arguments, best first, as a table and as JSONL."""
    model = ("--model", str(reranker_bundle))
    done = gte("rerank", "capital of China", "Peking", "fox", "sort", "--format", "jsonl", *model)
    assert done.returncode == 0, done.stderr
    found = rows(done)
    with Reranker.open(reranker_bundle) as reranker:
        expected = reranker.rank("capital of China", ["Peking", "fox", "sort"], return_documents=True)
    assert [(row["index"], row["document"]) for row in found] == [
        (row.index, row.document) for row in expected
    ]
    assert [row["score"] for row in found] == pytest.approx([row.score for row in expected], abs=1e-6)
    table = (
        gte("rerank", "capital of China", "Peking", "fox", "sort", "--top-k", "2", "--sigmoid", *model)
        .stdout.decode()
        .splitlines()
    )
    assert [line.split()[1] for line in table] == [row.document for row in expected[:2]]
    assert all(0 < float(line.split()[0]) < 1 for line in table)


def test_rerank_from_stdin(reranker_bundle: Path):
    """Lines of JSON keep their ids; what holds no document is named, and the rest is ranked."""
    lines = b'{"id": "a", "text": "Peking"}\n{"id": "b"}\n{"text": "\\ud800"}\n{"id": "c", "text": "fox"}\n'
    done = gte("rerank", "China", "--format", "jsonl", "--model", str(reranker_bundle), stdin=lines)
    assert done.returncode == 3
    assert {(row["index"], row["id"]) for row in rows(done)} == {(0, "a"), (3, "c")}
    talk = done.stderr.decode()
    assert "line 2: no field 'text'" in talk
    assert "line 3: lone surrogate" in talk
    assert "2 of 4 documents were rejected" in talk


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["", "a"], 2, "an empty query"),
        (["q", "a", "--max-length", "4"], 2, "max_length is 4"),
        (["q", "a", "--top-k", "0"], 2, "top-k"),
        (["q", "a", "-i", "file"], 2, "not both"),
        (["q", "dog " * 99, "--max-length", "20", "--no-truncate"], 2, "the limit is 20"),
        (["q", "a", "--model", "gte-mini"], 2, "is an embedding model"),
        (
            ["q", "a", "--model", "gte-multilingual-reranker-base"],
            4,
            "`gte pull gte-multilingual-reranker-base`",
        ),
    ],
)
def test_rerank_refusals(reranker_bundle: Path, args: list[str], code: int, says: str):
    done = gte("rerank", *(args if "--model" in args else [*args, "--model", str(reranker_bundle)]))
    assert done.returncode == code, done.stderr
    assert says in done.stderr.decode()
    assert done.stdout == b""


@pytest.mark.slow
def test_who_needs_all_rows_waits_for_them(reranker_bundle: Path):
    """A pipe that pauses has not ended."""
    command = [*COMMAND, "rerank", "China", "--format", "jsonl", "--model", str(reranker_bundle)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        time.sleep(1)
        out, _ = process.communicate(b"two\n", timeout=100)
    assert len(out.splitlines()) == 2
