"""How many examples the fuzz tests of readers try: few in every run, many in `make fuzz`."""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("GTE_FUZZ", "1"))
"""`make fuzz` sets it: every fuzz test tries so many times its usual number of examples."""


def examples(usual: int) -> int:
    return usual * FACTOR
