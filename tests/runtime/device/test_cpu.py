"""The one module that touches ONNX Runtime: cancellation, closing, errors in our words."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gte_runtime.bundle.directory import Bundle
from gte_runtime.device.cpu import CpuSession
from gte_runtime.errors import Cancelled, EngineError
from gte_runtime.inference.batch import make_batch

WIDTH = 64


LONG = 4000
"""Tokens of a text that takes long enough to be interrupted."""


@pytest.fixture
def session(tiny_bundle: Path):
    bundle = Bundle.open(tiny_bundle)
    variant = bundle.variant("cpu-fp32")
    opened = CpuSession(bundle.read(variant.graph), tiny_bundle, variant, WIDTH)
    yield opened
    opened.close()


def batch(length: int = 5, texts: int = 1):
    ids = [np.full(length, 4, np.int64)] * texts
    return make_batch(np.arange(texts), ids, 64)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Python's own SIGINT handler, which it does not install where a parent ignores the signal (a shell's `&`
    does).
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_stops_a_run_and_the_session_lives(session: CpuSession):
    """SIGINT arrives while a run is in flight, as KeyboardInterrupt; the next run is fine."""
    expected = session.run(batch()).cls
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may arrive in any of the runs
        for _ in range(100):
            session.run(batch(LONG, texts=2))
    assert np.array_equal(session.run(batch()).cls, expected)


def test_close_stops_runs_of_other_threads(session: CpuSession):
    """close() ends what runs elsewhere; those runs and all later ones say so."""
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                session.run(batch(LONG))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            outcome.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    while not session._running:
        time.sleep(0.001)
    session.close()
    worker.join(timeout=60)
    assert isinstance(outcome[0], Cancelled)
    with pytest.raises(Cancelled):
        session.run(batch())


def test_foreign_threads_leave_nothing_behind(session: CpuSession):
    """A thread that Python did not start, as a C++ host's are, gets no object that stays in Python's list of
    threads.
    """
    before = threading.enumerate()
    done = _thread.allocate_lock()
    outcome: list[object] = []

    def work() -> None:
        with done:
            outcome.append(session.run(batch()))

    done.acquire()
    _thread.start_new_thread(work, ())
    done.release()
    for _ in range(1000):
        if outcome and not done.locked():
            break
        time.sleep(0.01)
    assert outcome
    assert threading.enumerate() == before


def test_failures_are_ours(session: CpuSession, tiny_bundle: Path):
    """An error inside a run is an EngineError without paths, and the session works afterwards."""
    wrong = batch()
    object.__setattr__(wrong, "input_ids", np.full(5, 10**6, np.int64))
    with pytest.raises(EngineError) as caught:
        session.run(wrong)
    assert str(tiny_bundle) not in str(caught.value)
    assert np.isfinite(session.run(batch()).cls).all()


def test_a_lock_held_at_a_fork(session: CpuSession):
    """Another thread may hold it at that moment; in the child nobody gives it back, and close() does not wait
    for it.
    """
    child = 0
    with session._lock:
        child = os.fork()
        if not child:
            signal.alarm(20)
            session.close()
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_while_a_run_waits_for_its_turn(session: CpuSession, monkeypatch: pytest.MonkeyPatch):
    """It cannot be stopped before it has begun; then it is, and does not go on to its end."""
    session._processors.acquire(session.workers, session.workers)
    ended: list[type[BaseException] | None] = []
    run_on = session._run_on

    def recorded(*arguments: Any) -> object:
        try:
            result = run_on(*arguments)
        except BaseException as error:
            ended.append(type(error))
            raise
        ended.append(None)
        return result

    def interrupt() -> None:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        session._processors.release(session.workers)

    monkeypatch.setattr(session, "_run_on", recorded)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        session.run(batch(LONG, texts=4))
    assert ended == [Cancelled]
