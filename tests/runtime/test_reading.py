"""Rows of the command line's inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gte_runtime.cli.reading import InputFileError, open_rows


def test_rows_that_are_done_with_are_forgotten(tmp_path: Path):
    """Lines and ids of those still to be written are known, and of no others: memory does not grow with the file."""
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
