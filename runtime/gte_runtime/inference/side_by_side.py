"""Runs planned batches: some one after the other on all processors, the others at the same time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from .batch import Batch
from .session import Outputs, Session

Make = Callable[[], Batch]


def run_all(
    session: Session, batches: Sequence[Make], on_all: int, *, states: bool = False
) -> Iterator[tuple[int, Batch, Outputs]]:
    """(position, batch, outputs) of every batch, in the order in which they are done.

    Args:
        session: where they run.
        batches: how to make each; made when its turn comes, so that memory holds few of them.
        on_all: so many of the first get all processors; a single batch takes those that are free.
        states: fetch the states of all tokens too.

    Raises:
        EngineError: of the first run that fails; the others are stopped.
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
    """The caller's thread waits, so that it can be interrupted."""
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
    workers = [
        threading.Thread(target=work, name="gte-run", daemon=True) for _ in range(min(count, session.workers))
    ]
    for worker in workers:
        worker.start()
    try:
        for _ in itertools.repeat(None, count):
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        stopped.set()
        while any(worker.is_alive() for worker in workers):
            session.stop(owner)  # again and again: a run may begin between the flag and the stop
            for worker in workers:
                worker.join(0.05)
