"""The one module that touches ONNX Runtime: cancellation, closing, errors in our words."""

from __future__ import annotations

import _thread
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gte_runtime.bundle.directory import Bundle
from gte_runtime.device.cpu import CpuSession
from gte_runtime.device.graph import pair_sums_overflow
from gte_runtime.device.runtime import NO_TELEMETRY
from gte_runtime.errors import BundleError, BundleVersionError, Cancelled, EngineError
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
    """Python's own SIGINT handler, which it does not install where a parent ignores the signal (a shell's `&` does)."""
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


def test_leaving_while_a_thread_runs(tiny_bundle: Path):
    """The interpreter exits cleanly although a daemon thread is inside a run."""
    code = f"""
import sys, threading
import numpy as np
from gte_runtime import Embedder
gte = Embedder.open({str(tiny_bundle)!r})
def work():
    while True:
        gte.encode("a " * 3000)
threading.Thread(target=work, daemon=True).start()
while not gte.engine.session._running:
    pass
sys.exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "terminate called" not in done.stderr


def test_foreign_threads_leave_nothing_behind(session: CpuSession):
    """A thread that Python did not start, as a C++ host's are, gets no object that stays in Python's list of threads."""
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


def test_old_onnxruntime_is_named(tiny_bundle: Path):
    """A graph that needs a newer ONNX Runtime says which one, and is not tried."""
    bundle = Bundle.open(tiny_bundle)
    variant = replace(bundle.variant("cpu-fp32"), min_onnxruntime="99.0")
    with pytest.raises(BundleVersionError, match=r"needs ONNX Runtime 99\.0"):
        CpuSession(b"", tiny_bundle, variant, WIDTH)


def test_other_inputs_than_promised(tiny_bundle: Path):
    """A graph whose inputs are not the manifest's is refused before its first run."""
    bundle = Bundle.open(tiny_bundle)
    padded, ragged = bundle.variant("portable-fp32"), bundle.variant("cpu-fp32")
    with pytest.raises(BundleError, match=r"expected inputs .*attention_mask.* found .*cu_seqlens"):
        CpuSession(bundle.read(ragged.graph), tiny_bundle, replace(padded, graph=ragged.graph), WIDTH)


def test_nothing_on_stdout(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]):
    """A graph that does not load leaves stdout empty and names no directory."""
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(BundleError) as caught:
        CpuSession(b"not a graph", tiny_bundle, bundle.variant("cpu-fp32"), WIDTH)
    assert str(tiny_bundle) not in str(caught.value)
    assert capfd.readouterr().out == ""


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists() or platform.machine() != "x86_64",
    reason="reads an x86 processor's features",
)
def test_overflow_is_seen_where_it_is():
    """Processors without VNNI add pairs of int8 products in 16 bits; only there the slower exact kernels are asked for."""
    flags = set(
        next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
        ).split()
    )
    assert pair_sums_overflow() == (not flags & {"avx512_vnni", "avx_vnni"})


FORKING = """
import gc, os, signal, sys
from gte_runtime import Embedder
gte = Embedder.open({bundle!r}, threads=2)
gte.encode(["dog"] * 64)
child = os.fork()
if not child:
    signal.alarm(60)  # a hang ends with another status
    {then}
    sys.exit(7)
gte.encode("dog")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    "then",
    [
        "pass",
        "gte.close()",
        "del gte; gc.collect()",
        "Embedder.open({bundle!r}).encode('dog')",
        "gte.close(); os.fork()",
    ],
)
def test_a_child_of_fork_ends(tiny_bundle: Path, then: str):
    """Whatever it does with the engine it inherited, a child leaves with its own exit code."""
    code = FORKING.format(bundle=str(tiny_bundle), then=then.format(bundle=str(tiny_bundle)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 7, done.stderr


def test_a_lock_held_at_a_fork(session: CpuSession):
    """Another thread may hold it at that moment; in the child nobody gives it back, and close() does not wait for it."""
    child = 0
    with session._idle:
        child = os.fork()
        if not child:
            signal.alarm(20)
            session.close()
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("imported_before", [False, True])
def test_nothing_is_reported(tiny_bundle: Path, tmp_path: Path, imported_before: bool):
    """ONNX Runtime's own reports stay off: it keeps no number of the machine, and queues no event."""
    code = f"from gte_runtime import Embedder; Embedder.open({str(tiny_bundle)!r}).encode('dog')"
    environment = {
        name: value for name, value in os.environ.items() if name not in (NO_TELEMETRY, "XDG_CACHE_HOME")
    }
    environment |= {"HOME": str(tmp_path)}
    if imported_before:
        code = "import onnxruntime; " + code
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=120, check=True)
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    if not imported_before:
        assert kept == []
    for queue in (file for file in kept if ".db" in file.name):
        assert b"modelGraphName" not in queue.read_bytes()


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_while_a_run_waits_for_its_turn(session: CpuSession, monkeypatch: pytest.MonkeyPatch):
    """It cannot be stopped before it has begun; then it is, and does not go on to its end."""
    session._permits.take(session.workers, session.workers)
    ended: list[type[BaseException] | None] = []
    run_on = session._run_on

    def recorded(*arguments: object) -> object:
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
        session._permits.give(session.workers)

    monkeypatch.setattr(session, "_run_on", recorded)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        session.run(batch(LONG, texts=4))
    assert ended == [Cancelled]
