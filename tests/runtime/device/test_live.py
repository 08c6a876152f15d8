"""Processes that end, or fork, while sessions are open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


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


@pytest.mark.slow
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
