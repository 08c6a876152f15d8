"""`gte demo` as a user calls it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import gte

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_demo():
    """The demo runs on the default model, and says on stderr what kind of model that is."""
    done = gte("demo")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "what is the capital of China?" in text
    assert "中国的首都在哪儿" in text
    assert "Dense similarity" in text
    assert "Strongest sparse tokens" in text
    assert json.loads((ROOT / "models/gte-mini/config.json").read_text())["notice"] in done.stderr.decode()
    table = text.partition("Scores for the query")[2]
    found = re.findall(r"^  \[\d\] +(-?\d\.\d{3}) +(\d\.\d{3}) +(-?\d\.\d{3})  ", table, re.MULTILINE)
    scores = [tuple(map(float, row)) for row in found]
    assert len(scores) == 8
    assert sum(sparse > 0.3 for _, sparse, _ in scores) >= 2, "no query shares a word with a text"
    assert all(abs(dense + 0.3 * sparse - hybrid) < 0.0015 for dense, sparse, hybrid in scores)
