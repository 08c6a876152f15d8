"""`gte verify` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import gte


def test_verify_a_reranker(reranker_bundle: Path):
    done = gte("verify", str(reranker_bundle))
    assert done.returncode == 0, done.stderr
    assert b"self-check cpu-int8: largest difference" in done.stdout


@pytest.mark.slow
def test_verify_by_name():
    """What `embed` takes by its name, `verify` takes, too."""
    done = gte("verify", "gte-mini")
    assert done.returncode == 0, done.stderr
    assert b"self-check cpu-fp32" in done.stdout
