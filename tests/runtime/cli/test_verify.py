"""`gte verify` as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-c", "from gte_runtime.cli import main; main()"]


def gte(
    *args: str | bytes, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *args], input=stdin, capture_output=True, timeout=120, check=False, cwd=cwd
    )


def test_verify_a_reranker(reranker_bundle: Path):
    done = gte("verify", str(reranker_bundle))
    assert done.returncode == 0, done.stderr
    assert b"self-check cpu-int8: largest difference" in done.stdout


def test_verify_by_name():
    """What `embed` takes by its name, `verify` takes, too."""
    done = gte("verify", "gte-mini")
    assert done.returncode == 0, done.stderr
    assert b"self-check cpu-fp32" in done.stdout
