"""The model that commands are given."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def model(tiny_bundle: Path) -> str:
    return str(tiny_bundle)
