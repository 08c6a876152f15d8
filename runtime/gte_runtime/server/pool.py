"""A thread pool whose threads all start with it, and which knows whether it has lost one.

The pool of `concurrent.futures` starts a thread when it is needed. Where the system gives none at that
moment, `submit` fails and the work stays in the queue all the same; and nobody notices a thread that ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from ..errors import NoThread

T = TypeVar("T")


class Pool(Executor):
    """Use it as any executor."""

    def __init__(self, count: int, name: str) -> None:
        """Start `count` threads. Raises NoThread where the system gives fewer."""
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._closed = False
        self._threads: list[threading.Thread] = []
        for index in range(count):
            # Daemons: a run that does not end must not keep the process from ending. See `machine.native`.
            thread = threading.Thread(target=self._work, name=f"{name}_{index}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self.shutdown(wait=False)
                raise NoThread(str(error)) from None
            self._threads.append(thread)

    @property
    def whole(self) -> bool:
        """No thread has ended before the pool was shut down."""
        return self._closed or all(thread.is_alive() for thread in self._threads)

    def submit(self, work: Callable[..., T], /, *arguments: Any, **options: Any) -> Future[T]:
        if self._closed:
            raise RuntimeError("the pool is shut down")
        future: Future[T] = Future()
        self._queue.put((future, partial(work, *arguments, **options)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end when they have done what is in the queue; with `cancel_futures`, what they have
        begun."""
        self._closed = True
        while cancel_futures and not self._queue.empty():
            if item := self._queue.get():
                item[0].cancel()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:  # noqa: BLE001 - carried to whoever waits for it
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del item, future, work  # else an idle thread would keep them
