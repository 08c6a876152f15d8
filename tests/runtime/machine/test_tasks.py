"""Work in threads of our own: results, errors, signals, and systems that give no thread."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from thread_limit import limit_of_threads

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


AT_A_LIMIT = """
import sys
from pathlib import Path
from gte_runtime import Embedder
from gte_runtime.bundle.directory import Bundle
from gte_runtime.device.graph import load_graph
from gte_runtime.device.runtime import runtime
from gte_runtime.errors import NoThread
from gte_runtime.tokenization import Tokenizer
import gte_runtime.bundle.load, tokenizers
runtime()
bundle = Bundle.open(Path(sys.argv[1]))
variant = bundle.variant("cpu-fp32")
tokenizer = Tokenizer(bundle.read("tokenizer.json"), bundle.manifest.tokenizer)
work = {
    "a bundle": lambda: Embedder.open(sys.argv[1]).encode("dog"),
    "a session": lambda: load_graph(bundle.read(variant.graph), bundle.directory, variant, "cpu", 3),
    "a tokenizer": lambda: tokenizer.encode(["dog", "cat"], max_length=8),
}[sys.argv[2]]
print("ready", flush=True)
for _ in range(2):
    sys.stdin.readline()
    try:
        work()
        print("done", flush=True)
    except NoThread:
        print("NoThread", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a bundle", "a session", "a tokenizer"])
def test_a_limit_of_threads_that_passes(tiny_bundle: Path, what: str):
    """Our own threads, those of ONNX Runtime and those of tokenizers: the same error, and afterwards the same
    process opens and encodes."""
    with subprocess.Popen(
        [sys.executable, "-c", AT_A_LIMIT, str(tiny_bundle), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            with limit_of_threads(psutil.Process(process.pid)):
                print(file=process.stdin, flush=True)
                assert process.stdout.readline() == "NoThread\n"
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "done\n"
        finally:
            process.kill()


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
