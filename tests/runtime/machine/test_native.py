"""Processes that end, or fork, while sessions are open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each starts processes


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


LEAVING = {
    # Each thread's first run loads a session with one thread, and nobody waits for that thread.
    "runs side by side": """
for _ in range(2):
    work = lambda: [gte.encode(["word " * 300] * 16) for _ in range(99)]
    threading.Thread(target=work, daemon=True).start()
gte.encode("a")
sys.exit(7)
""",
    "tokenizes": """
def work():
    while True:
        gte.tokenize("word " * 8000)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
""",
    "opens": """
def work():
    while True:
        Embedder.open(sys.argv[1]).close()
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
""",
    "imports": """
threading.Thread(target=runtime, daemon=True).start()
time.sleep(0.05)
sys.exit(7)
""",
}


@pytest.mark.parametrize("what", LEAVING)
def test_leaving_while_a_daemon_thread(tiny_bundle: Path, what: str):
    """... is inside a native call: the exit code is the program's, not SIGABRT."""
    code = "import sys, threading, time\nfrom gte_runtime import Embedder\n"
    if what == "imports":
        code += "from gte_runtime.device.runtime import runtime\n"
    else:
        code += "gte = Embedder.open(sys.argv[1], threads=2)\n"
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code + LEAVING[what], str(tiny_bundle)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 7, done.stderr
        assert "terminate called" not in done.stderr


def test_a_call_that_comes_too_late():
    """Once Python is exiting, a thread gets an error in place of a call that nobody would wait for."""
    code = """
import atexit, threading
late = []
def ask():
    from gte_runtime.errors import Cancelled
    from gte_runtime.machine.native import native
    try:
        with native():
            late.append("called")
    except Cancelled as error:
        late.append(str(error))
def leaving():
    ready.set(); thread.join(); print(late[0])
atexit.register(leaving)  # before ours, so it is called after ours
import gte_runtime.machine.native
ready = threading.Event()
thread = threading.Thread(target=lambda: (ready.wait(), ask()), daemon=True)
thread.start()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("Python is exiting")


@pytest.mark.parametrize(("number", "code"), [("SIGINT", -2), ("SIGTERM", 143)])
def test_a_signal_while_python_exits(number: str, code: int):
    """A call that takes long does not keep the process: a second Ctrl-C ends it as the first one should
    have."""
    program = f"""
import atexit, os, signal, sys, threading, time
from gte_runtime.machine.native import native
signal.signal(signal.SIGTERM, lambda n, f: sys.exit(128 + n))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
def work():
    with native():
        time.sleep(1000)
threading.Thread(target=work, daemon=True).start()
def again():
    while True:  # one that comes before the exit handlers would only interrupt what comes before them
        time.sleep(0.5)
        os.kill(os.getpid(), signal.{number})
print("written")
atexit.register(threading.Thread(target=again, daemon=True).start)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code
    assert done.stdout == "written\n"
