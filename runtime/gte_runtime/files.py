"""Reads a whole file that somebody else put there, if it is one: a pipe in its place would wait for ever.

Links are followed, since the hub's cache is made of them; `bundle` has a stricter way.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path) -> bytes:
    """Raises FileNotFoundError, or another OSError that says what else stands there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read()
