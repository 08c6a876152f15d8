"""Operations on files that the standard library lacks."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from pathlib import Path

# From <fcntl.h> and <linux/fs.h>; <stdio.h> and <sys/stdio.h> on macOS.
AT_FDCWD = -100
RENAME_EXCHANGE = 2
RENAME_SWAP = 2


def read_regular(path: Path) -> bytes:
    """A whole file that somebody else put there, if it is one: a pipe in its place would block for ever.

    Links are followed, since the hub's cache is made of them; `bundle` has a stricter way.

    Raises:
        OSError: FileNotFoundError, or another one that says what else is there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read()


def exchange(one: Path, other: Path) -> None:
    """Swap two names of one file system in a single step.

    Raises:
        OSError: ENOSYS, EINVAL or ENOTSUP where system or file system cannot; otherwise the reason.
    """
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(first, second, RENAME_SWAP)
        else:
            failed = library.renameat2(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE)
    except AttributeError:  # a C library from before 2018, or musl
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
