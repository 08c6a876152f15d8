"""Directories that are expensive to make, made once for all processes of a test run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A directory that `make` creates whole or not at all. Tests must not change it.

    Each worker of pytest-xdist has a temporary directory of its own; their common parent belongs to the run.
    The first worker that needs the directory makes it there, the others wait for it.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        target = factory.mktemp(name) / name
        make(target)
        return target
    folder = factory.getbasetemp().parent / "made-once"
    folder.mkdir(exist_ok=True)
    target = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            make(target)
    return target
