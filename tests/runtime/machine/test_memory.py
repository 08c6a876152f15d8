"""What a process holds after many batches of random shapes, and after an engine was closed.

Each in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RANDOM_SHAPES = """
import sys
import numpy as np
from gte_runtime import Embedder

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

rng = np.random.default_rng(3)
with Embedder.open(sys.argv[1], variant="cpu-int8", threads=2) as gte:
    sizes = []
    for _ in range(80):
        lengths = np.exp(rng.uniform(np.log(3), np.log(3000), rng.integers(1, 9))).astype(int)
        lengths = lengths[np.cumsum(lengths) <= 4000] if lengths[0] <= 4000 else lengths[:1]
        gte.engine.run([np.r_[0, rng.integers(5, 1000, max(1, n - 2)), 2] for n in lengths])
        sizes.append(resident())
    print(max(sizes[20:50]), max(sizes[50:]))
"""


def run(code: str, *arguments: object) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.slow
def test_random_shapes_leave_memory_flat(mini_bundle: Path):
    """Of 80 batches of lengths to 3000, the last 30 reach at most 2 % more than the 30 before."""
    first, second = run(RANDOM_SHAPES, mini_bundle)
    assert second <= 1.02 * first
