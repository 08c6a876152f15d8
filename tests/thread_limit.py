"""A process at its limit of threads, as in a container with a pids limit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


@contextlib.contextmanager
def limit_of_threads(process: psutil.Process) -> Iterator[None]:
    """No further thread starts in a process: a control group whose limit is what the process has."""
    for folder in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        group = folder / f"gte-test-{process.pid}"
        try:
            group.mkdir()
            (group / "cgroup.procs").write_text(str(process.pid))
            (group / "pids.max").write_text(str(process.num_threads()))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        try:
            yield
        finally:
            (group / "pids.max").write_text("max")
            (folder / "cgroup.procs").write_text(str(process.pid))
            group.rmdir()
        return
    pytest.skip("control groups of processes cannot be made here")
