"""`gte score` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from gte_runtime.cli import main; main()"]


def gte(
    *args: str | bytes, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *args], input=stdin, capture_output=True, timeout=120, check=False, cwd=cwd
    )


@pytest.fixture
def model(tiny_bundle: Path) -> str:
    return str(tiny_bundle)


def rows(done: subprocess.CompletedProcess[bytes]) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_score(model: str):
    """Documents come best first, with the score of the library."""
    done = gte("score", "--model", model, "--format", "jsonl", "北京", "capital of China", "北京")
    scores = rows(done)
    assert scores[0]["document"] == "北京"
    assert scores[0]["score"] >= scores[1]["score"]
