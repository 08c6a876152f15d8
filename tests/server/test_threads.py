"""The threads that the server lives on: they start with it, a limit that comes later does not matter, and
losing one ends the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from pathlib import Path

import psutil
import pytest
from serving import GTE, Process, eventually, gated, in_threads, statuses
from thread_limit import limit_of_threads

from gte_runtime.errors import NoThread
from gte_runtime.server.health import STUCK_EXIT
from gte_runtime.server.pool import Pool
from gte_runtime.server.refusals import refusal_of

LIMITED = """
import os, sys, threading
real, prefix = threading.Thread.start, os.environ["GTE_TEST_NO_THREAD"]
def start(self):
    if self.name.startswith(prefix):
        raise RuntimeError("can't start new thread")
    return real(self)
threading.Thread.start = start
from gte_runtime.cli import main
main()
"""
"""`gte` on a system that gives no thread of some name."""

TEXTS = {"input": ["dog " * n for n in (1, 3, 700, 900, 2, 1200)]}


@pytest.mark.parametrize("prefix", ["gte-serve", "gte-tokenize", "gte-health"])
def test_a_server_that_gets_no_threads_does_not_start(tiny_bundle: Path, tmp_path: Path, prefix: str):
    """It says so in one line and ends, for a supervisor to try again; it never claims to be ready."""
    env = {**os.environ, "GTE_TEST_NO_THREAD": prefix}
    with pytest.raises(RuntimeError, match="exit 1: ") as caught:
        Process(tmp_path, "--model", str(tiny_bundle), env=env, command=[GTE[0], "-c", LIMITED])
    assert str(caught.value).strip().endswith("or start fewer")
    assert "Traceback" not in str(caught.value)


@pytest.mark.slow
def test_a_limit_that_comes_later(tiny_bundle: Path, tmp_path: Path):
    """Not one more thread may start, and everything is answered as before: long texts, many at a time,
    checks."""
    server = Process(tmp_path, "--model", str(tiny_bundle), "--threads", "2", "--check-every", "0.5")
    try:
        expected = server.post("/v1/encode", TEXTS).json()["data"]
        with limit_of_threads(psutil.Process(server.process.pid)):
            answers = in_threads(lambda _: server.post("/v1/encode", TEXTS), 12)
            assert statuses(answers) == {200: 12}
            assert all(answer.json()["data"] == expected for answer in answers)
            time.sleep(2)  # idle: the model is checked
            assert server.get("/health/ready").status_code == 200
            assert server.post("/v1/encode", TEXTS).json()["data"] == expected
        assert server.stop() == 0
    finally:
        server.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("pool", ["dispatcher", "tokenizing", "checking"])
def test_a_lost_thread_ends_the_process(tiny_bundle: Path, pool: str):
    """Readiness goes, whoever waits gets 503, and the server ends with its code."""
    options = {"check_every": 0.5 if pool == "checking" else 60.0, "stall_timeout": 2.0, "drain_timeout": 1.0}
    with gated(tiny_bundle, **options) as (here, _):
        threads = {
            "dispatcher": here.server.dispatcher._pool,
            "tokenizing": here.server.tokenizing,
            "checking": here.server.health._checking,
        }[pool]._threads
        for thread in threads:  # delivered when it takes up work
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
            )
        answer: list[int] = []

        def ask() -> None:
            with contextlib.suppress(OSError):
                text = "dog " * (600 if pool == "tokenizing" else 1)
                answer.append(here.post("/v1/encode", {"input": text}, timeout=5).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: here.exit_codes == [STUCK_EXIT], 20)
        assert here.get("/health/ready").status_code == 503
        asking.join(20)
        if pool == "dispatcher":
            assert answer == [503]


def test_a_watch_that_fails_ends_the_process(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    """Without it a model that hangs would go unnoticed, and readiness would stay what it was."""
    with gated(tiny_bundle) as (here, _):
        monkeypatch.setattr(here.server.dispatcher, "stuck", lambda *_: 1 / 0)
        eventually(lambda: here.exit_codes == [STUCK_EXIT], 20)
        assert here.get("/health/ready").status_code == 503


def test_a_pool(monkeypatch: pytest.MonkeyPatch):
    """Results, errors of every kind and cancelled work; its threads survive all of that, and end with it."""
    pool = Pool(2, "gte-pool")
    assert pool.submit(lambda a, b: a + b, 2, b=3).result() == 5
    for error in (ValueError("no"), SystemExit(1)):

        def work(error: BaseException = error) -> None:
            raise error

        assert pool.submit(work).exception(10) is error
    gate = threading.Event()
    running = [pool.submit(gate.wait, 10) for _ in range(2)]
    eventually(lambda: all(one.running() for one in running))
    waiting = pool.submit(lambda: 5)
    pool.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    gate.set()
    pool.shutdown()
    assert all(one.result(10) for one in running)
    assert pool.whole
    with pytest.raises(RuntimeError):
        pool.submit(lambda: 5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gte-pool")]


def test_without_a_thread_a_client_may_try_again():
    """503, with the time after which."""
    refusal = refusal_of(NoThread("can't start new thread"), "input")
    assert refusal.meaning.status == 503
    assert "retry-after" in refusal.headers
