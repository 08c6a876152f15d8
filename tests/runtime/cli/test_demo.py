"""`gte demo` as a user calls it."""

from __future__ import annotations

import json
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
