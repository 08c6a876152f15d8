"""Work in threads of our own, and waits for it that signals can interrupt.

Python handles signals in the main thread only, and only between bytecodes. So the main thread never computes
for long: another thread does, and the main thread waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from ..errors import NoThread

T = TypeVar("T")

SIGNALS_EVERY = 0.5
"""Seconds after which a waiting main thread looks for signals: one that arrives just before it starts to wait
does not wake it."""
STOP_EVERY = 0.05
"""Seconds after which a task is stopped again: what it does may not have begun to be stoppable."""


def wait_for(event: threading.Event) -> None:
    """Wait until the event is set. In the main thread, Ctrl-C and other signals are handled within
    SIGNALS_EVERY."""
    while not event.wait(SIGNALS_EVERY):
        pass


def in_main_thread() -> bool:
    # Compared by number: current_thread() keeps an object for every thread that Python did not start.
    return threading.get_ident() == threading.main_thread().ident


class Task(Generic[T]):
    """One call in a thread of its own.

    Whoever starts one sees to it that `end` is called where `result` does not return.
    """

    def __init__(self, work: Callable[[], T], name: str) -> None:
        self._work = work
        # Neither Thread.join nor Event: an interrupted join takes the thread for ended (Python 3.11,
        # https://github.com/python/cpython/issues/90882), and a signal can leave the lock of an Event locked.
        self._running = threading.Lock()
        self._done, self._abandoned = True, False
        self.value: T | None = None
        """What the call returned."""
        self.failure: BaseException | None = None
        """What it raised."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Task[T]:
        """Raises NoThread where the system gives no thread."""
        try:
            self._running.acquire()
            self._done = False
            self._thread.start()
        except BaseException as error:
            # A thread that has not begun by now will find the task abandoned.
            self._abandoned = True
            if not self._thread.is_alive():
                self._done = True  # only ever set: the thread may be setting it just now
            if isinstance(error, RuntimeError) and "new thread" in str(error):
                raise NoThread(str(error)) from None
            if isinstance(error, RuntimeError) and error.__context__ is not None:
                raise error.__context__ from None  # a signal's, on which a lock of Thread.start failed
            raise
        return self

    def result(self) -> T:
        """Wait for the end of the call; what it returns, or raises."""
        while not self._done:
            self._running.acquire(timeout=SIGNALS_EVERY)
        if self.failure is None:
            return cast(T, self.value)
        try:
            raise self.failure
        finally:
            self.failure = None  # else it and its frames would keep each other

    def end(self, stop: Callable[[], object] = lambda: None) -> None:
        """Call `stop` until the call has ended."""
        while not self._done:
            stop()
            self._running.acquire(timeout=STOP_EVERY)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            if not self._abandoned:
                self.value = self._work()
        except BaseException as error:  # noqa: BLE001 - carried to the waiting thread and raised there
            self.failure = error
        finally:
            self._done = True
            self._running.release()
            del self._work


def aside(work: Callable[[], T], name: str, stop: Callable[[], object] = lambda: None) -> T:
    """Do the work in another thread. If a signal interrupts the wait, the work is stopped, and has ended when
    the signal's exception is raised. Raises NoThread, too."""
    task = Task(work, name)
    try:
        return task.start().result()
    except BaseException:
        task.end(stop)
        raise
