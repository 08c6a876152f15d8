"""How many threads to run: the CPU affinity, the container's CPU quota and the user's limit decide.

And errors of a system that gives no more threads or memory, as errors of this package.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError, NoThread, OutOfMemory

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
CGROUP_V1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


VARIABLES = ("GTE_THREADS", "OMP_NUM_THREADS")
"""Environment variables with a limit, where the caller gives none; the first that is set counts."""
MOST = 4096
"""The largest number that a variable may have."""


def thread_count(wish: int | None = None) -> int:
    """min(processors in the affinity mask, ceil(CPU quota), wish), at least 1.

    ONNX Runtime's own default ignores a container's quota. Without a wish the environment may have one: see
    VARIABLES.

    Raises:
        ConfigError: `wish`, or the variable, is not a positive integer.
    """
    if wish is not None and (isinstance(wish, bool) or not isinstance(wish, int) or wish < 1):
        raise ConfigError(
            f"threads is {wish!r}; "
            "expected an integer of at least 1, or None for all that this process may use"
        )
    if wish is None:
        wish = _from_environment()
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    if (quota := cgroup_quota()) is not None:
        limits.append(math.ceil(quota))
    if wish is not None:
        limits.append(wish)
    return max(1, min(limits))


def _from_environment() -> int | None:
    """The limit of the first variable that is set and not empty.

    OMP_NUM_THREADS may be a list, one number for each level of nested regions (OpenMP 5.2, 21.1.2); the first
    one counts.
    """
    for name in VARIABLES:
        if text := os.environ.get(name, "").strip():
            first = text.partition(",")[0].strip() if name == "OMP_NUM_THREADS" else text
            if not (first.isascii() and first.isdigit() and 1 <= int(first[:5]) <= MOST):
                raise ConfigError(
                    f"{name} is {text[:40]!r}; set it to an integer from 1 to {MOST}, or unset it"
                )
            return int(first)
    return None


@contextlib.contextmanager
def named_limits() -> Iterator[None]:
    """Raise errors of this package where the system gives no more threads or memory.

    Raises:
        NoThread: no thread could be started.
        OutOfMemory: no memory was given.
    """
    try:
        yield
    except MemoryError as error:
        if isinstance(error, OutOfMemory):
            raise
        raise OutOfMemory(NO_MEMORY) from None
    except RuntimeError as error:
        if not no_threads(error):
            raise
        raise NoThread(str(error)) from None


def no_threads(error: RuntimeError) -> bool:
    """Whether an error of Python's own threads, or of ONNX Runtime's, says that there are no more."""
    return "can't start new thread" in str(error) or "pthread_create" in str(error)


NO_MEMORY = (
    "not enough memory; close other programs, raise the limit (ulimit -v, or the container's), "
    "or use a smaller variant such as cpu-int8"
)


def cgroup_quota() -> float | None:
    """The CPU quota of the control group (v2, else v1) in processors, such as 1.5; None without a limit."""
    try:
        quota, period = CGROUP_V2.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        quota_us, period_us = int(CGROUP_V1_QUOTA.read_text()), int(CGROUP_V1_PERIOD.read_text())
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
