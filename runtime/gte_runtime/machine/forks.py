"""Keeps native objects that own threads from being destroyed in a child of fork().

After fork() the child has only the thread that forked. The destructor of a native thread pool would wait
there for threads that do not exist, or abort, at the latest when the child's interpreter exits. So a hook
that runs in the child adds one reference to each such object and never drops it. The memory is shared
with the parent (copy on write), so this costs the child nothing.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import TypeVar

T = TypeVar("T")

_threaded: weakref.WeakSet[object] = weakref.WeakSet()


def outlive_forks(native: T) -> T:
    """Register a native object and return it. In children of this process it is never destroyed."""
    _threaded.add(native)
    return native


def _keep() -> None:
    for native in list(_threaded):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)
