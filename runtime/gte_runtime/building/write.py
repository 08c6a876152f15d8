"""Writes a file of a bundle: hashed as it is written, and on the disk when it is done."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ..format.manifest import FileRecord


def write(path: Path, parts: Iterable[bytes]) -> FileRecord:
    """Write, flush to disk and hash. Readable by everyone, so that a container's user can open it."""
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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
