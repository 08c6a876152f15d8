"""File operations that the standard library lacks."""

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


LARGEST = 64 * 2**20
"""Bytes that `read_regular` reads at most. The largest that is read whole, a tokenizer.json, has 17 MB."""


def read_regular(path: Path, limit: int = LARGEST) -> bytes:
    """Read a whole file, if it is a regular one: reading a named pipe would block for ever.

    Symbolic links are followed, because the hub's cache consists of them; `bundle.directory` follows none.

    Raises:
        OSError: there is no such file (FileNotFoundError), it is not a regular file, it has more than `limit`
            bytes, or it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if os.fstat(descriptor).st_size > limit or len(data := file.read(limit + 1)) > limit:
            raise OSError(errno.EFBIG, f"larger than {limit} bytes")
        return data


def exchange(one: Path, other: Path) -> None:
    """Swap two names on the same file system atomically.

    Raises:
        OSError: with errno ENOSYS, EINVAL or ENOTSUP where the system or the file system has no such
            operation, otherwise with the system's reason.
    """
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(first, second, RENAME_SWAP)
        else:
            failed = library.renameat2(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE)
    except AttributeError:  # glibc before 2.28 (2018), or musl
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync(directory: Path) -> None:
    """Flush a directory, so that a rename in it survives a power failure.

    Some network file systems refuse; that is ignored.

    Raises:
        OSError: the directory cannot be opened.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError as error:
        why = "directories cannot be opened here, as on Windows, which is not supported"
        raise PermissionError(
            error.errno, error.strerror if not os.access(directory, os.R_OK) else why
        ) from None
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
