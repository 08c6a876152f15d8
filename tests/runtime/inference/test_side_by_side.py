"""Every batch runs once, failures stop the others, and shares of processors are those of the plan."""

from __future__ import annotations

import threading
import time
from functools import partial

import numpy as np
import pytest
from doubles import FromIds

from gte_runtime.errors import Cancelled, EngineError
from gte_runtime.inference.batch import Batch, make_batch
from gte_runtime.inference.session import Outputs, Share
from gte_runtime.inference.side_by_side import run_all


class Recorder:
    """A session that takes a moment, gives back the first id of every text, and can be told to fail or to
    wait.
    """

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
    del results  # nobody else holds the generator, so this closes it
    assert len(session.shares) < 50
    assert not [t for t in threading.enumerate() if t.name == "gte-run"]


def test_nothing_to_run():
    """No batches, no runs."""
    assert list(run_all(Recorder(2), [], 0)) == []


class Watching(FromIds):
    """Runs take a moment; notes how many went on at the same time, and in which threads."""

    def __init__(self, workers: int, provider: str = "cpu") -> None:
        super().__init__(provider, workers)
        self.now = self.most = 0
        self.threads: set[tuple[str, bool]] = set()
        """Name, and whether it is a daemon: one that does not keep the process alive."""
        self.lock = threading.Lock()

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.threads.add((threading.current_thread().name, threading.current_thread().daemon))
        time.sleep(0.005)
        outputs = super().run(batch, share, owner, states=states)
        with self.lock:
            self.now -= 1
        return outputs


@pytest.mark.parametrize(
    ("workers", "count", "wide", "shares"),
    [
        (3, 1, 0, ["any"]),
        (3, 1, 1, ["any"]),
        (1, 1, 0, ["any"]),
        (1, 3, 0, ["all", "all", "all"]),
        (3, 4, 0, ["one", "one", "one", "one"]),
        (3, 4, 2, ["all", "all", "one", "one"]),
        (3, 4, 4, ["all", "all", "all", "all"]),
        (3, 4, 3, ["all", "all", "all", "one"]),
    ],
)
def test_how_many_processors_each_run_gets(workers: int, count: int, wide: int, shares: list[str]):
    """The first runs take all of them, one after the other and in order; then each run takes one."""
    session = Watching(workers)
    found = list(run_all(session, batches(count), wide))
    assert [run[1] for run in session.runs] == shares
    assert [index for index, *_ in found[:wide]] == list(range(wide))
    assert sorted(index for index, *_ in found) == list(range(count))
    assert session.most <= max(1, min(workers, count - wide))
    assert session.threads <= {("gte-run", True), (threading.current_thread().name, False)}


def test_runs_at_the_same_time():
    """As many as there are workers, no more; they share one owner, by which all of them can be stopped."""
    session = Watching(3)
    list(run_all(session, batches(12), 0))
    assert session.most == 3
    assert not any(states for *_, states in session.runs)  # unless they are asked for
    owners = {id(owner) for _, _, owner, _ in session.runs}
    assert len(owners) == 1
    assert None not in [owner for _, _, owner, _ in session.runs]


@pytest.mark.parametrize("states", [False, True])
def test_states_are_fetched_in_every_run(states: bool):
    """On all processors and on one."""
    session = Watching(2)
    found = list(run_all(session, batches(4), 2, states=states))
    assert {run[3] for run in session.runs} == {states}
    assert {len(outputs.token_states) for _, _, outputs in found} == {2 if states else 0}


def test_each_result_comes_with_its_batch():
    """Made just before its run, in whichever thread."""
    for index, batch, outputs in run_all(Watching(2), batches(6), 2):
        assert batch.input_ids.tolist() == [index, index]
        assert outputs.cls[0, 0] == index


def test_batches_are_made_one_by_one():
    """Before a result is taken, no more batches are made than run: their arrays need memory."""
    made: list[int] = []

    def make(n: int) -> Batch:
        made.append(n)
        return batches(n + 1)[n]()

    results = run_all(Watching(1), [partial(make, n) for n in range(5)], 0)
    for n in range(5):
        next(results)
        assert made == list(range(n + 1))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_whatever_is_raised_in_a_thread_is_raised_here(error: type[BaseException]):
    """Also by the making of a batch, and also what is no Exception; a caller is never left waiting."""

    def broken() -> Batch:
        raise error

    with pytest.raises(error):
        list(run_all(Watching(2), [*batches(3), broken, *batches(3)], 0))
    assert not [t for t in threading.enumerate() if t.name == "gte-run"]


def test_a_failure_on_all_processors_ends_the_call():
    """Nothing after it runs."""
    session = Recorder(2, fail=1)
    with pytest.raises(EngineError, match="it broke"):
        list(run_all(session, batches(4), 4))
    assert session.shares == ["all", "all"]


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
