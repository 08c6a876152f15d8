"""Files that somebody else put there, and two names that change places in one step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from spoil import no_hanging

from gte_runtime.machine.files import exchange, read_regular


def test_a_file_is_read_whole(tmp_path: Path):
    """Through a link, too."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "file") == read_regular(tmp_path / "link") == b"content"


def test_what_is_no_regular_file(tmp_path: Path):
    """A pipe would block until somebody writes into it; a directory cannot be read."""
    os.mkfifo(tmp_path / "pipe")
    with no_hanging(tmp_path / "pipe"), pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path / "pipe")
    with pytest.raises(OSError, match="directory"):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")


def test_names_change_places(tmp_path: Path):
    """Directories with their content; where one is missing, nothing happens."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    (one / "file").write_text("of one")
    other.mkdir()
    try:
        exchange(one, other)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            pytest.skip("this file system cannot exchange names")
        raise
    assert list(one.iterdir()) == []
    assert (other / "file").read_text() == "of one"
    with pytest.raises(OSError, match="No such file"):
        exchange(one, tmp_path / "none")
    assert one.is_dir()
