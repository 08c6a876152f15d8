"""Rows of the command line's inputs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, gte, rows

from gte_runtime.errors import InputFileError
from gte_runtime.jobs.row import Fields
from gte_runtime.jobs.rows import open_rows


def test_a_file_that_fails_while_it_is_read():
    """Not every error comes from opening: the file is named all the same."""
    with pytest.raises(InputFileError, match=r"mem: "):
        list(open_rows(["/proc/self/mem"]))


def test_embed_jsonl_file(model: str, tmp_path: Path):
    """A JSONL file keeps its ids; a BOM, CRLF, blank lines and a missing last newline are no rows."""
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "one"}\r\n\n{"id": 7, "text": "two"}')
    done = gte("embed", "--model", model, "-i", str(source))
    assert [(row["index"], row["id"]) for row in rows(done)] == [(0, "a"), (1, 7)]


def test_line_separators_are_text(model: str):
    """U+2028 and U+0085 inside a text do not break a row."""
    done = gte("embed", "--model", model, stdin="one\u2028still one\x85still\ntwo\n".encode())
    assert len(rows(done)) == 2


def test_bad_rows_are_named_and_the_rest_is_done(model: str, tmp_path: Path):
    """Rows that cannot be embedded are named by line, the others are written, and the exit code is 3."""
    source = tmp_path / "in.jsonl"
    lines = [
        b'{"text": "one"}',
        b"not json",
        b'{"other": 1}',
        b'{"text": null}',
        b'{"text": "\\ud800"}',
        b"[1]",
        b'{"text": "\xff"}',
        b'{"text": "two"}',
    ]
    source.write_bytes(b"\n".join(lines) + b"\n")
    done = gte("embed", "--model", model, "-i", str(source))
    assert done.returncode == 3
    assert [row["index"] for row in rows(done)] == [0, 7]
    talk = done.stderr.decode()
    reasons = (
        "not JSON",
        "no field 'text'",
        "NoneType",
        "surrogate",
        "expected an object",
        "not valid UTF-8 at byte 10",
    )
    for line, reason in enumerate(reasons, 2):
        assert reason in next(said for said in talk.splitlines() if f"line {line}: " in said)
    assert "6 of 8 rows were rejected" in talk


@pytest.mark.slow
def test_stdin_is_read_as_a_file_is(model: str, tmp_path: Path):
    """A blank line is an empty text in either, so that rows and lines stay side by side; only JSONL has lines
    that are no rows.
    """
    plain = b"one\n\n{two\n"
    (tmp_path / "texts").write_bytes(plain)
    piped = rows(gte("embed", "--model", model, stdin=plain))
    assert [row["index"] for row in piped] == [0, 1, 2]
    assert piped == rows(gte("embed", "--model", model, "-i", str(tmp_path / "texts")))
    done = gte("embed", "--model", model, stdin=b'\n{"text": "one"}\n\nplain\n')
    assert [row["index"] for row in rows(done)] == [0]
    assert b"line 4: not JSON: Expecting value at column 1" in done.stderr


@pytest.mark.slow
def test_a_pipe_is_answered_when_it_pauses(model: str):
    """A line in, a line out, and on; rows and lines are counted through.

    What stays open is not taken for the end.
    """
    command = [*COMMAND, "embed", "--model", model, "--threads", "1"]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes, env={**os.environ, "PYTHONUNBUFFERED": ""}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(100, process.kill)
        timer.start()
        found = []
        for sent, count in ((b"one\n", 1), (b"two\n\xff\nthr", 1), (b"ee\nfour\n", 2)):
            process.stdin.write(sent)
            process.stdin.flush()
            found += [json.loads(process.stdout.readline()) for _ in range(count)]
        out, errors = process.communicate(timeout=100)
        timer.cancel()
    assert (process.returncode, out) == (3, b"")
    assert [row["index"] for row in found] == [0, 1, 3, 4]
    assert b"line 3: not valid UTF-8" in errors
    assert b"1 of 5 rows" in errors
    together = rows(gte("embed", "--model", model, "--threads", "1", stdin=b"one\ntwo\n\xff\nthree\nfour\n"))
    assert found == together


def read(folder: Path, name: str, data: bytes, field: str = "text") -> list[tuple[object, Any, str | None]]:
    file = folder / name
    file.write_bytes(data)
    return [(row.text, row.id, row.problem) for row in open_rows([str(file)], Fields(field))]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("lines.json", '{"text": "a, b", "id": 1}\n{"text": "北\\n京", "id": 2}\n'),
        ("list.json", '[{"text": "a, b", "id": 1}, {"text": "北\\n京", "id": 2}]'),
        ("pretty.json", '[\n {"text": "a, b",\r\n  "id": 1},\n {"text": "北\\n京", "id": 2}\n]\n'),
        ("a.csv", 'id,text\r\n1,"a, b"\r\n2,"北\n京"\r\n'),
        ("b.CSV", '\ufefftext;id\n"a, b";1\n\n"北\n京";2'),
        ("c.tsv", 'text\tid\na, b\t1\n"北\n京"\t2\n'),
    ],
)
def test_a_file_is_read_in_the_form_of_its_name(name: str, data: str, tmp_path: Path):
    """Brackets, quotes and headers are no part of the texts."""
    found = read(tmp_path, name, data.encode())
    assert [(text, int(identity), problem) for text, identity, problem in found] == [
        ("a, b", 1, None),
        ("北\n京", 2, None),
    ]


def test_other_documents(tmp_path: Path):
    assert read(tmp_path, "strings.json", b'["a", "b"]') == [("a", None, None), ("b", None, None)]
    assert read(tmp_path, "object.json", b'{\n "text": "a"\n}') == [("a", None, None)]
    assert read(tmp_path, "empty.json", b" \n") == read(tmp_path, "empty.csv", b"") == []
    (row,) = read(tmp_path, "number.json", b"[7]")
    assert row == (None, None, "expected an object, found int")
    assert read(tmp_path, "rows.csv", b"id,text\n1\n2,\xff\n3,ok\n") == [
        (None, None, "it has 1 columns, and the header 2"),
        (None, None, "not valid UTF-8"),
        ("ok", "3", None),
    ]
    assert read(tmp_path, "plain.txt", b"[1] Smith, a\x00b\n{\n") == [
        ("[1] Smith, a\x00b", None, None),
        ("{", None, None),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", "hello\n".encode("utf-16"), "a.txt: it is UTF-16; convert it"),
        ("a.txt", "hello\n".encode("utf-16-le"), "a.txt: it looks like UTF-16; convert it"),
        ("a.csv", b"PK\x03\x04", "a.csv: it is a ZIP archive or an Office document"),
        ("a", b"%PDF-1.7", "a: it is a PDF"),
        ("a.json", b'[1,\n"a', "a.json: element 2 is not JSON"),
        ("a.json", b"[NaN]", "a.json: element 1 is not JSON: NaN is no number of JSON"),
        ("a.csv", b"id,body\n1,a\n", "a.csv: no column 'text'; the columns are 'id', 'body'; name one with"),
        ("a.csv", b'text\n"a\n', "a.csv: line 2: unexpected end of data"),
    ],
)
def test_files_of_other_kinds_are_refused(name: str, data: bytes, message: str, tmp_path: Path):
    with pytest.raises(InputFileError, match=f"^{re.escape(message)}"):
        read(tmp_path, name, data)
