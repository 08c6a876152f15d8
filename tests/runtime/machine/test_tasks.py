"""Work in threads of our own: results, errors, signals, and systems that give no thread."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from gte_runtime.errors import EngineError, NoThread
from gte_runtime.machine.tasks import aside


def no_threads(monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """As at a limit of processes: only the next `after` threads of ours start."""
    real, left = threading.Thread.start, [after]

    def start(self: threading.Thread) -> None:
        if self.name.startswith("gte-"):
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_results_and_errors():
    """A task gives what its work gave, or raises what it raised, whatever that is."""
    assert aside(lambda: 5, "gte-test") == 5
    assert aside(lambda: None, "gte-test") is None
    for error in (ValueError("no"), SystemExit(3)):

        def work(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            aside(work, "gte-test")
        assert caught.value is error


def test_no_thread(monkeypatch: pytest.MonkeyPatch):
    """An error of ours that says what to raise; `end` does not wait for work that never began."""
    no_threads(monkeypatch)
    with pytest.raises(NoThread, match=r"can't start new thread.*pids\.max"):
        aside(lambda: 5, "gte-test")
    assert issubclass(NoThread, EngineError)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_while_a_task_starts(monkeypatch: pytest.MonkeyPatch, when: str):
    """Thread.start may raise although the thread runs. Then its work has ended, or never begins."""
    real = threading.Thread.start
    began: list[float] = []

    def start(self: threading.Thread) -> None:
        if when == "after":
            real(self)
        raise KeyboardInterrupt

    def work() -> None:
        began.append(0)
        time.sleep(0.2)
        began.append(1)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        aside(work, "gte-test")
    assert len(began) in (0, 2)


def test_a_signal_while_it_is_waited_for():
    """The work is stopped, again and again until it heeds that, and has ended when the exception arrives."""
    stopped: list[int] = []
    ended = threading.Event()

    def work() -> None:
        signal.raise_signal(signal.SIGALRM)
        while len(stopped) < 3:
            time.sleep(0.001)
        ended.set()

    def handle(*_: Any) -> None:
        raise KeyboardInterrupt

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGALRM, handle)
    try:
        with pytest.raises(KeyboardInterrupt):
            aside(work, "gte-test", lambda: stopped.append(1))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ended.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "gte-test"]
