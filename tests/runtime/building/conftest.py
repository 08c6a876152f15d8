"""A checkpoint of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import Golden
from tiny import Tiny


@pytest.fixture
def tiny(golden: Golden, tmp_path: Path) -> Tiny:
    return Tiny(golden, tmp_path)
