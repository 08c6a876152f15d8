"""Native objects that have threads, and children of fork().

A child has none of its parent's threads but the one that forked. Destroying such an object there waits for its
threads for ever, or aborts: when the engine is dropped, or at the latest when the child leaves the interpreter. So
a child gets one reference to each that is never given back; the memory is the parent's, and costs nothing.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import TypeVar

T = TypeVar("T")

_threaded: weakref.WeakSet[object] = weakref.WeakSet()


def outlive_forks(native: T) -> T:
    """The object itself. In children of this process it is never destroyed."""
    _threaded.add(native)
    return native


def _keep() -> None:
    for native in list(_threaded):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)
