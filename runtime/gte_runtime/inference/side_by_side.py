"""Runs planned batches: some on all processors one after the other, the others side by side."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from .batch import Batch
from .session import Outputs, Session

Make = Callable[[], Batch]


def run_all(session: Session, batches: Sequence[Make], wide: int, *, states: bool = False) -> Iterator[tuple[int, Batch, Outputs]]:
    """(position, batch, outputs) of every batch, as they are done.

    Args:
        batches: how to make each; made when its turn comes, so that memory holds few of them.
        wide: so many of the first get all processors; a single batch takes what is free.
        states: fetch the states of all tokens too.

    Raises:
        EngineError: of the first run that fails; the others are stopped.
    """
    more = {"states": True} if states else {}
    if len(batches) == 1 or session.workers == 1:
        wide = len(batches)
    for index, make in enumerate(batches[:wide]):
        batch = make()
        yield index, batch, session.run(batch, "any" if len(batches) == 1 else "all", **more)
    if wide < len(batches):
        yield from _side_by_side(session, batches, wide, more)


def _side_by_side(session: Session, batches: Sequence[Make], first: int, more: Mapping[str, bool]) -> Iterator[tuple[int, Batch, Outputs]]:
    """The caller's thread waits, so that it can be interrupted."""
    left = iter(range(first, len(batches)))
    done: SimpleQueue[Any] = SimpleQueue()
    party, lock, stopped = object(), threading.Lock(), threading.Event()

    def work() -> None:
        while not stopped.is_set():
            with lock:
                index = next(left, None)
            if index is None:
                return
            try:
                batch = batches[index]()
                done.put((index, batch, session.run(batch, "one", party, **more)))
            except BaseException as error:  # noqa: BLE001 - carried to the waiting thread and raised there
                done.put(error)
                return

    count = len(batches) - first
    workers = [threading.Thread(target=work, name="gte-run", daemon=True) for _ in range(min(count, session.workers))]
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
            session.stop(party)  # again and again: a run may begin between the flag and the stop
            for worker in workers:
                worker.join(0.05)
