"""A file of a bundle is new, whole, readable by everyone, and its record is that of its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gte_runtime.building.write import sha256_of, write


def test_the_record_is_that_of_the_bytes(tmp_path: Path):
    """Size and hash, however the content came in parts."""
    record = write(tmp_path / "file", [b"ab", b"", b"c" * 10_000])
    content = (tmp_path / "file").read_bytes()
    assert content == b"ab" + b"c" * 10_000
    assert (record.size, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert sha256_of(tmp_path / "file") == record.sha256
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_nothing_is_overwritten(tmp_path: Path):
    """A name that exists is a mistake of the caller."""
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").read_bytes() == b"old"
