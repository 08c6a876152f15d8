"""Runs the batches of a plan: the first ones one after the other on all processors, the others at the same
time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import NoThread
from ..machine.tasks import SIGNALS_EVERY, Task
from .batch import Batch
from .session import Outputs, Session

Make = Callable[[], Batch]
"""Makes a batch just before it runs, so that few of them are in memory."""


def run_all(
    session: Session, batches: Sequence[Make], on_all: int, *, states: bool = False
) -> Iterator[tuple[int, Batch, Outputs]]:
    """Run batches and yield (position, batch, outputs) of each as it ends.

    Args:
        session: runs them.
        batches: in the order of the plan.
        on_all: how many of the first wait for all processors. A single batch does not wait; it takes all if
            they are free.
        states: fetch the states of all tokens too.

    Raises:
        EngineError: a run failed. The others are stopped.
    """
    if len(batches) == 1 or session.workers == 1:
        on_all = len(batches)
    for index, make in enumerate(batches[:on_all]):
        batch = make()
        yield index, batch, session.run(batch, "any" if len(batches) == 1 else "all", states=states)
    if on_all < len(batches):
        yield from _at_the_same_time(session, batches, on_all, states)


def _at_the_same_time(
    session: Session, batches: Sequence[Make], first: int, states: bool
) -> Iterator[tuple[int, Batch, Outputs]]:
    """Each run is in a thread of its own. The caller's thread only waits, so that Ctrl-C interrupts it.

    Where the system gives fewer threads than there are processors, those do the work; where it gives none,
    the caller's thread does.
    """
    left = iter(range(first, len(batches)))
    done: SimpleQueue[Any] = SimpleQueue()
    owner, lock, stopped = object(), threading.Lock(), threading.Event()

    def work() -> None:
        while not stopped.is_set():
            with lock:
                index = next(left, None)
            if index is None:
                return
            try:
                batch = batches[index]()
                done.put((index, batch, session.run(batch, "one", owner, states=states)))
            except BaseException as error:  # noqa: BLE001 - carried to the waiting thread and raised there
                done.put(error)
                return

    count = len(batches) - first
    workers: list[Task[None]] = []
    try:
        for _ in range(min(count, session.workers)):
            workers.append(Task(work, "gte-run"))
            try:
                workers[-1].start()
            except NoThread:
                if len(workers) == 1:
                    work()
                break
        for _ in range(count):
            result = _next(done)
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        stopped.set()
        for worker in workers:
            worker.end(partial(session.stop, owner))


def _next(done: SimpleQueue[Any]) -> Any:
    while True:
        try:
            return done.get(timeout=SIGNALS_EVERY)
        except Empty:
            pass  # look for signals
