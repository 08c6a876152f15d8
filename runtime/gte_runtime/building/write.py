"""Writes and hashes the files of a bundle."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ..format.manifest import FileRecord


def write(path: Path, parts: Iterable[bytes]) -> FileRecord:
    """Write a new file from its parts, flush it to disk, and return its size and hash.

    The file is readable by all users (mode 0644), so that another user, such as a container's, can open it.
    """
    digest = hashlib.sha256()
    size = 0
    with path.open("xb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o644)
    return FileRecord(size=size, sha256=digest.hexdigest())


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
