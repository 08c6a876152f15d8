"""Ctrl-C and SIGTERM while a command runs: the process ends with the signal's own exit code, soon.

The first signal raises an exception in the main thread, so that what is half done is removed. That alone
promises nothing. An exception that comes at any moment can be lost: Python drops it in a destructor or in
the callback of a weak reference (every import has such callbacks), and libraries make other errors of it. It
can also leave a lock locked. So a thread ends the process after GRACE seconds, and a second signal at once.

Interrupted processes end without the interpreter's end, which aborts while threads are in C++ or Rust
(`machine.native`).
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import time
from typing import Any

GRACE = 10.0
"""Seconds for removing what is half done, and for waiting for a session that loads."""

_received: int | None = None
"""The number of the first signal."""
_over = False


def watch() -> None:
    """From now on signals interrupt the command.

    Also where the parent ignores Ctrl-C, as a script's shell does for what it starts with `&`: Python would
    leave it ignored, and `kill -INT` would be lost until a server has started, and then stop it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _handle)


def leave() -> None:
    """End the process if a signal came; from now on a signal ends it at once."""
    global _over
    _over = True
    if _received is not None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(128 + _received)


def _handle(number: int, frame: Any) -> None:
    global _received
    if _over or _received is not None:
        os._exit(128 + number)
    _received = number
    # Not threading.Thread, one of whose locks the main thread may hold at this moment.
    with contextlib.suppress(RuntimeError):
        _thread.start_new_thread(_end_later, (128 + number,))
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _end_later(code: int) -> None:
    time.sleep(GRACE)
    os._exit(code)
