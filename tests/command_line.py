"""Runs `gte` in a process of its own, as a user's shell does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-c", "from gte_runtime.cli import main; main()"]


def gte(
    *args: str | bytes, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *args], input=stdin, capture_output=True, timeout=120, check=False, cwd=cwd
    )


def rows(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    """The lines of JSON that a command wrote to stdout."""
    return [json.loads(line) for line in done.stdout.splitlines()]
