"""Rows of the command line's inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.cli import reading
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
    """Pieces end where they like; a line of more than the limit is one that is too long, and the next one is itself again."""
    data = b"".join(parts)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_LINE", 7)
        assert list(reading._lines(pieces)) == lines_of(data)
