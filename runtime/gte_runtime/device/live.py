"""Sessions that are open, and waits that signals can interrupt: what it takes to leave a process cleanly."""

from __future__ import annotations

import atexit
import threading
import weakref
from typing import Protocol

SIGNALS_EVERY = 0.5
"""Seconds after which a waiting main thread looks for signals: one that arrives just before it starts to wait
does not wake it."""


class Closable(Protocol):
    def close(self) -> None: ...


live: weakref.WeakSet[Closable] = weakref.WeakSet()
"""Every open session."""


def wait_for(event: threading.Event) -> None:
    """Wait until the event is set. In the main thread, Ctrl-C and other signals are handled within
    SIGNALS_EVERY.

    Not `Thread.join`: when that is interrupted, it takes the thread for ended (Python 3.11,
    https://github.com/python/cpython/issues/90882).
    """
    while not event.wait(SIGNALS_EVERY):
        pass


@atexit.register
def _close_all() -> None:
    """A process that exits while a run is going on is aborted, so every run is stopped first."""
    for session in list(live):
        session.close()
