"""Returns memory that the C library's allocator keeps free to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Call glibc's malloc_trim, which takes milliseconds. Without glibc this does nothing.

    glibc by itself returns freed memory only from the top of its heap: one block that is still in use
    keeps everything below it in the process.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return None
    trim.argtypes = [ctypes.c_size_t]
    return trim
