"""Native objects with threads are destroyed in the process that made them, and never in its children."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import gc, os, sys
from gte_runtime.machine.forks import outlive_forks

class Native:
    def __del__(self):
        os.write(1, b"destroyed in " + (b"child" if os.getpid() != PARENT else b"parent") + b"\\n")

PARENT = os.getpid()
native = {native}
child = os.fork()
if not child:
    del native
    gc.collect()
    sys.exit(0)
os.waitpid(child, 0)
del native
gc.collect()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("native", "says"),
    [
        ("outlive_forks(Native())", ["destroyed in parent"]),
        ("Native()", ["destroyed in child", "destroyed in parent"]),
    ],
    ids=["kept", "negative control"],
)
def test_a_child_destroys_nothing(native: str, says: list[str]):
    """Not when it drops its reference, nor when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(native=native)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split("\n")[:-1] == says
