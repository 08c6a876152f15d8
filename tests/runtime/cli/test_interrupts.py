"""Ctrl-C and SIGTERM in `gte`: the signal's own exit code, whatever becomes of the exception."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # each starts a process, and some wait for GRACE

HEAD = """
import os, signal, sys, threading, time, weakref
from gte_runtime.cli import demo, interrupts, main
interrupts.GRACE = 0.5
class Thing:
    pass
def send(*_):
    os.kill(os.getpid(), signal.{number})
def work(**_):
{work}
demo.command.callback = work
sys.argv = ["gte", "demo"]
main()
"""

WORK = {
    "is lost": """
    thing = Thing()
    kept = weakref.ref(thing, send)
    del thing
    time.sleep(1000)
""",
    "becomes another": """
    try:
        send()
        time.sleep(1000)
    except BaseException:
        raise ImportError("something") from None
""",
    "meets a lock that stays locked": """
    lock = threading.Lock()
    lock.acquire()
    try:
        send()
        time.sleep(1000)
    finally:
        lock.acquire()
""",
    "comes again": """
    interrupts.GRACE = 1000
    for _ in range(2):
        try:
            send()
            time.sleep(1000)
        except BaseException:
            pass
    time.sleep(1000)
""",
    "comes late": """
    import atexit
    atexit.register(lambda: (send(), time.sleep(1000)))
""",
    "finds a thread in a library": """
    import tokenizers
    from gte_runtime.format.models import models_directory
    where = models_directory() / "gte-mini" / "tokenizer.json"
    def load():
        while True:
            tokenizers.Tokenizer.from_file(str(where)).encode("word " * 100_000)
    for _ in range(2):
        threading.Thread(target=load).start()
    time.sleep(0.3)
    send()
    time.sleep(1000)
""",
}


@pytest.mark.parametrize("what", WORK)
def test_an_interruption(what: str):
    """Its exception is dropped by Python, replaced, or leads into a wait without end: the process ends
    nevertheless, as the signal says."""
    number, code = ("SIGINT", 130) if len(what) % 2 else ("SIGTERM", 143)
    program = HEAD.format(work=WORK[what], number=number)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == code, done.stderr


def test_what_was_half_done_is_removed():
    """The exception passes through `finally` clauses, and what was written before is flushed."""
    work = """
    print("written")
    try:
        send()
        time.sleep(1000)
    finally:
        print("removed")
"""
    done = subprocess.run(
        [sys.executable, "-c", HEAD.format(work=work, number="SIGTERM")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (143, "written\nremoved\n")


def test_a_parent_that_ignores_ctrl_c():
    """As a script's shell does for what it starts with `&`: `kill -INT` reaches the command nevertheless."""
    program = HEAD.format(work="    send()\n    time.sleep(1000)", number="SIGINT")
    done = subprocess.run(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + program],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 130
