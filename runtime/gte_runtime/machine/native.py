"""Native calls that must have ended before the interpreter ends.

When Python exits, it first waits for threads that are not daemons (unless a signal interrupts that), then
runs the callbacks of `atexit`, and from then on ends every other thread at the moment at which it wants the
interpreter's lock back (`pthread_exit`, up to Python 3.13). Where such a thread is inside C++ or Rust, the
process aborts: "terminate called without an active exception". That concerns our own threads, daemon threads
of the host program, and threads that nobody waits for any more since a signal interrupted the wait.

So every native call that gives up the interpreter's lock runs inside `with native()`. When Python exits,
sessions are closed, which stops their runs, further calls are refused, and those that go on are waited for.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ..errors import Cancelled


class Closable(Protocol):
    def close(self) -> None: ...


_calls: dict[object, int] = {}
"""The thread of each call that goes on. A dictionary needs no lock, which a signal could leave locked."""
_open: weakref.WeakSet[Closable] = weakref.WeakSet()
_exiting: int | None = None
"""The thread in which Python exits, once it does."""


@contextmanager
def native() -> Iterator[None]:
    """The block calls a library that gives up the interpreter's lock. Raises Cancelled when Python exits."""
    call = object()
    _calls[call] = threading.get_ident()
    try:
        # After the call was registered: one that was registered too late to be waited for is refused here.
        if _exiting not in (None, threading.get_ident()):
            raise Cancelled("Python is exiting, so nothing is run any more")
        yield
    finally:
        del _calls[call]


class Guarded:
    """A native object whose methods are called inside `native()`."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._target, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            with native():
                return found(*arguments, **options)

        self.__dict__[name] = call  # the next time it is found without this function
        return call


def close_at_exit(closable: Closable) -> None:
    """Close it before Python ends, if it still exists then. `close` must stop its runs."""
    _open.add(closable)


@atexit.register
def _leave() -> None:
    global _exiting
    _exiting = threading.get_ident()
    try:
        _close_and_wait()
    except (KeyboardInterrupt, SystemExit) as error:
        # Going on would end the threads that are not waited for, and waiting may take seconds.
        _end_at_once(error)


def _close_and_wait() -> None:
    failures = []
    for closable in list(_open):
        try:
            closable.close()
        except Exception as error:  # noqa: BLE001 - the others must be closed nevertheless
            failures.append(error)
    while any(thread != _exiting for thread in _calls.copy().values()):
        time.sleep(0.005)
    if failures:
        raise failures[0]


def _end_at_once(error: KeyboardInterrupt | SystemExit) -> None:
    """End the process as the signal would have, without ending Python."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if isinstance(error, SystemExit):
        os._exit(error.code if isinstance(error.code, int) else 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
    os._exit(130)


def _forget_other_threads() -> None:
    """A child of fork() has none of them."""
    own = threading.get_ident()
    for call, thread in list(_calls.items()):
        if thread != own:
            del _calls[call]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
