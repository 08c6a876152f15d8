"""Ctrl-C and SIGTERM at random moments: the exit is always the signal's own, never an abort and never a hang,
and an engine that is kept works afterwards.

The usual run does a few of them; `make fuzz` does 60 for each command, 300 in all. GTE_SEED chooses others.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND
from fuzzing import FACTOR
from golden import Golden
from hubserver import Hub, serving

from gte_runtime import Embedder

pytestmark = [
    pytest.mark.slow,
    # A signal in a destructor or a callback of the collector (hypothesis has one) is lost there.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

COUNT = 60 if FACTOR > 1 else 2
SEED = int(os.environ.get("GTE_SEED", "1"))
INSIDE = 300 if FACTOR > 1 else 30
"""Interruptions in one process, which cost little."""

OWN = {
    signal.SIGINT: {0, 130, -signal.SIGINT},
    signal.SIGTERM: {0, 143, -signal.SIGTERM},
}
"""Exit codes: done before the signal came; by `gte`; by the system, while Python starts."""

OPEN = """
import sys
from gte_runtime import Embedder
import gte_runtime.bundle.load
print("ready", flush=True)
Embedder.open(sys.argv[1], threads=2, verify="always")
"""


class Interrupted(BaseException):
    """Raised by the handler, as KeyboardInterrupt by Python's own."""


class Alarm:
    """`with Alarm(seconds)`: a signal after that time, whose handler raises Interrupted inside the block."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.armed = seconds, True

    def _handle(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise Interrupted

    def __enter__(self) -> None:
        self.before = signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_: object) -> None:
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


@pytest.fixture
def hub(golden: Golden) -> Iterator[Hub]:
    with serving(Hub()) as hub:
        names = ("config.json", "tokenizer.json", "model.safetensors")
        hub.add("acme/tiny", {name: golden.checkpoint / name for name in names})
        yield hub


def exits(commands: Iterator[list[str]], env: dict[str, str], first: str | None = None) -> Counter[int]:
    """Exit codes of processes that are interrupted at random moments of their lives.

    Args:
        commands: what to start, each time anew.
        env: their environment.
        first: their lives begin with this line on stdout; None: with the start of the process.
    """
    rng = random.Random(SEED)
    found: Counter[int] = Counter()
    life = 0.0
    for attempt in range(COUNT + 1):
        command = next(commands)
        with subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heeding_ctrl_c,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            if first is not None:
                assert process.stdout.readline().strip() == first
            start = time.monotonic()
            if not attempt:  # how long a life is
                if "serve" in command:
                    assert any("serving" in line for line in process.stderr)
                    time.sleep(0.3)
                    process.send_signal(signal.SIGTERM)
                _ended(process)
                life = time.monotonic() - start
                assert process.returncode == 0
                continue
            number = rng.choice(sorted(OWN))
            time.sleep(rng.uniform(0, life))
            process.send_signal(number)
            err = _ended(process)
        assert process.returncode in OWN[number], (number, process.returncode, err)
        assert "terminate called" not in err
        assert "install ONNX Runtime" not in err
        found[process.returncode] += 1
    return found


def _heeding_ctrl_c() -> None:
    """A script's shell has what it starts with `&` ignore Ctrl-C, and so has what these tests start then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _ended(process: subprocess.Popen[str]) -> str:
    """What it wrote to stderr. A process that hangs is killed, and fails the test."""
    try:
        return process.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def test_while_a_bundle_opens(tiny_bundle: Path):
    """The thread that loads the session is waited for."""
    command = [sys.executable, "-c", OPEN, str(tiny_bundle)]
    found = exits(iter(lambda: command, None), dict(os.environ), "ready")
    assert sum(found.values()) == COUNT


@pytest.mark.parametrize("command", ["build", "embed", "pull", "serve"])
def test_commands(command: str, golden: Golden, tiny_bundle: Path, hub: Hub, tmp_path: Path):
    """130 for Ctrl-C and 143 for SIGTERM; what a build or a pull leaves behind is a whole bundle or none."""
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(f"the dog sorts {n} numbers " * 5 for n in range(500)))

    def commands() -> Iterator[list[str]]:
        for number in range(COUNT + 1):
            target = str(tmp_path / f"bundle{number}")
            yield [
                *COMMAND,
                *{
                    "build": ["build", str(golden.checkpoint), target, "--graphs", str(golden.graphs)],
                    "embed": ["embed", "--model", str(tiny_bundle), "-i", str(text), "-o", target + ".npy"],
                    "pull": ["pull", "acme/tiny", "-o", target, "--graphs", str(golden.graphs)],
                    "serve": ["serve", "--model", str(tiny_bundle), "--port", "0"],
                }[command],
            ]

    env = {**os.environ, **hub.environment(tmp_path / "hub")}
    found = exits(commands(), env)
    assert sum(found.values()) == COUNT
    for bundle in tmp_path.glob("bundle*"):
        if bundle.is_dir():
            Embedder.open(bundle, verify="always").close()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_that_is_kept(tiny_bundle: Path, threads: int):
    """Whenever `encode` or `stream` is interrupted, the next call gives the same bits as ever."""
    rng = random.Random(SEED)
    texts = [f"{'dog ' * (n % 20)}{n}" for n in range(64)]
    with Embedder.open(tiny_bundle, threads=threads) as gte:
        gte.encode(texts)
        start = time.monotonic()
        expected = gte.encode(texts).dense
        whole = time.monotonic() - start
        assert expected is not None
        interrupted = 0
        for attempt in range(INSIDE):
            try:
                with Alarm(rng.uniform(1e-5, whole)):
                    if attempt % 2:
                        gte.encode(texts)
                    else:
                        list(gte.stream(texts, texts_per_part=16))
            except Interrupted:
                interrupted += 1
            few = gte.encode(texts[:8]).dense
            assert few is not None
            assert np.array_equal(few, expected[:8])
        assert interrupted > INSIDE // 3
        assert np.array_equal(gte.encode(texts).dense, expected)


def test_opening_again(tiny_bundle: Path):
    """An interrupted opening leaves nothing that keeps the next one from working, and no thread."""
    import threading

    rng = random.Random(SEED)
    Embedder.open(tiny_bundle, verify="always").close()
    start = time.monotonic()
    Embedder.open(tiny_bundle, verify="always").close()
    whole = time.monotonic() - start
    for _ in range(INSIDE // 3):
        try:
            with Alarm(rng.uniform(1e-5, whole)):
                Embedder.open(tiny_bundle, verify="always").close()
        except Interrupted:
            pass
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("gte-")]
    with Embedder.open(tiny_bundle) as gte:
        assert gte.encode("dog").dense is not None
