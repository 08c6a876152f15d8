"""Rows of the command line's inputs."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, gte, rows
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.cli import reading
from gte_runtime.cli.reading import InputFileError, open_rows


def test_rows_that_are_done_with_are_forgotten(tmp_path: Path):
    """Lines and ids of those still to be written are known, and of no others: memory does not grow with the
    file.
    """
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"text": "a", "id": {number}}}\n' for number in range(6)))
    rows = open_rows(str(file), "text")
    each = iter(rows)
    for _ in range(4):
        next(each)
    rows.forget(2)
    next(each)
    rows.forget(1)
    assert (rows.ids([3, 4]), rows.place(4), rows.problem(4), rows.count) == ([3, 4], "line 5", None, 5)
    for index in range(3):
        with pytest.raises(KeyError):
            rows.place(index)


def test_a_file_that_fails_while_it_is_read():
    """Not every error comes from opening: the file is named all the same."""
    with pytest.raises(InputFileError, match=r"mem: "):
        list(open_rows("/proc/self/mem", "text"))


def lines_of(data: bytes) -> list[bytes]:
    """What `_lines` gives, the obvious way."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    found = [reading.TOO_LONG if len(line) > reading.MAX_LINE else line.removesuffix(b"\r") for line in lines]
    if found and found[0] is not reading.TOO_LONG:
        found[0] = lines[0].removeprefix(b"\xef\xbb\xbf").removesuffix(b"\r")
    return found


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf", b"bcdef"])), st.integers(1, 9))
def test_lines_wherever_they_are_cut(parts: list[bytes], size: int):
    """Pieces end where they like; a line of more than the limit is one that is too long, and the next one is
    itself again.
    """
    data = b"".join(parts)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_LINE", 7)
        assert list(reading._lines(pieces)) == lines_of(data)


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
