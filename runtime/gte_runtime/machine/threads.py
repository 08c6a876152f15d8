"""How many threads to run: the CPU affinity, the container's CPU quota and the user's limit decide."""

from __future__ import annotations

import math
import os
from pathlib import Path

from ..errors import ConfigError

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
CGROUP_V1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def thread_count(wish: int | None = None) -> int:
    """min(processors in the affinity mask, ceil(CPU quota), wish), at least 1.

    ONNX Runtime's own default ignores a container's quota.

    Raises:
        ConfigError: `wish` is not a positive integer.
    """
    if wish is not None and (isinstance(wish, bool) or not isinstance(wish, int) or wish < 1):
        raise ConfigError(
            f"threads is {wish!r}; "
            "expected an integer of at least 1, or None for all that this process may use"
        )
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    if (quota := cgroup_quota()) is not None:
        limits.append(math.ceil(quota))
    if wish is not None:
        limits.append(wish)
    return max(1, min(limits))


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
