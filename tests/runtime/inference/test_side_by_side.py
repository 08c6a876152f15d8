"""Every batch is run once, failures stop the others, and what is asked of the session is what the plan says."""

from __future__ import annotations

import threading
import time
from functools import partial

import numpy as np
import pytest

from gte_runtime.errors import Cancelled, EngineError
from gte_runtime.inference.batch import Batch, make_batch
from gte_runtime.inference.session import Outputs, Share
from gte_runtime.inference.side_by_side import run_all


class Recorder:
    """A session that takes a moment, gives back the first id of every text, and can be told to fail or to wait."""

    provider = "cpu"

    def __init__(self, workers: int, fail: int = -1, wait: bool = False) -> None:
        self.workers, self.fail, self.wait = workers, fail, wait
        self.shares: list[str] = []
        self.stopped = threading.Event()

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        self.shares.append(share)
        first = int(batch.input_ids[0])
        if first == self.fail:
            raise EngineError("it broke")
        time.sleep(0.005)
        if self.wait and self.stopped.wait(30):
            raise Cancelled("stopped")
        return Outputs(np.full((1, 1), first, np.float32), np.zeros(len(batch.input_ids), np.float32))

    def stop(self, owner: object) -> None:
        self.stopped.set()

    def close(self) -> None: ...


def batches(count: int) -> list[partial[Batch]]:
    return [partial(make_batch, np.array([0]), [np.array([n, n])], 64) for n in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("wide", [0, 2, 7])
def test_every_batch_once(workers: int, wide: int):
    """With its own position, whoever ran it."""
    session = Recorder(workers)
    found = {index: float(out.cls[0, 0]) for index, _, out in run_all(session, batches(7), wide)}
    assert found == {n: float(n) for n in range(7)}
    assert session.shares.count("all") == (7 if workers == 1 else wide)


def test_a_single_batch_takes_what_is_free():
    """It neither waits for all processors nor is held to one."""
    session = Recorder(4)
    assert len(list(run_all(session, batches(1), 0))) == 1
    assert session.shares == ["any"]


def test_a_failure_stops_the_others():
    """The error arrives at once, and no thread is left."""
    session = Recorder(3, fail=1, wait=True)
    with pytest.raises(EngineError, match="it broke"):
        list(run_all(session, batches(9), 0))
    assert session.stopped.is_set()
    assert not [t for t in threading.enumerate() if t.name == "gte-run"]


def test_leaving_early_stops_the_others():
    """A caller who wants no more results leaves nothing running."""
    session = Recorder(2)
    results = run_all(session, batches(50), 0)
    next(results)
    results.close()
    assert len(session.shares) < 50
    assert not [t for t in threading.enumerate() if t.name == "gte-run"]


def test_nothing_to_run():
    """No batches, no runs."""
    assert list(run_all(Recorder(2), [], 0)) == []


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_limit_of_threads(monkeypatch: pytest.MonkeyPatch, allowed: int):
    """Fewer threads than processors do the work; without any, the caller's does it."""
    real, left = threading.Thread.start, [allowed]

    def start(self: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    session = Recorder(4)
    found = {index: float(out.cls[0, 0]) for index, _, out in run_all(session, batches(7), 0)}
    assert found == {n: float(n) for n in range(7)}
    assert not [t for t in threading.enumerate() if t.name == "gte-run"]
