"""Where Python itself is not as it should be, the import says so; and it changes nothing in its host."""

from __future__ import annotations

import subprocess
import sys

import pytest

SUB = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
other = interpreters.create()
run = getattr(interpreters, "run_string", None) or interpreters.exec
try:
    failure = run(other, "import gte_runtime")
except Exception as error:
    failure = error
print(failure)
"""

AROUND = """
import numpy  # what numpy does when it is imported is numpy's: its OpenBLAS starts a thread
import atexit, logging, os, signal, sys, threading, warnings
TASKS = "/proc/self/task"
def look():
    return {
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "environment": dict(os.environ),
        "argv": list(sys.argv),
        "path": list(sys.path),
        "folder": os.getcwd(),
        "threads": len(os.listdir(TASKS)) if os.path.isdir(TASKS) else threading.active_count(),
        "filters": list(warnings.filters),
        "handlers": list(logging.getLogger().handlers),
        "hooks": (sys.excepthook, sys.stdout, sys.stderr, threading.excepthook),
        "umask": os.umask(os.umask(0o22)),
    }
before = look()
import gte_runtime, gte_runtime.compat
after = look()
assert before == after, [key for key in before if before[key] != after[key]]
"""


def test_a_sub_interpreter_is_refused_at_import():
    """At once, where importing ONNX Runtime would hang for ever; with the way out."""
    done = subprocess.run(
        [sys.executable, "-c", SUB], capture_output=True, text=True, timeout=60, check=False
    )
    assert "gte_runtime cannot run in a sub-interpreter" in done.stdout
    assert "use the main interpreter" in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_import_changes_nothing(stream: str):
    """No thread, signal handler, environment variable, warning filter, log handler or output comes from an
    import.
    """
    done = subprocess.run(
        [sys.executable, "-c", AROUND], capture_output=True, text=True, timeout=60, check=False
    )
    assert getattr(done, stream) == ""
    assert done.returncode == 0
