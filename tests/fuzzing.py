"""How many examples property tests try: few in `make check`, many in `make fuzz`."""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("GTE_FUZZ", "1"))
"""Every property test tries this many times its usual number of examples."""


def examples(usual: int) -> int:
    return max(1, round(usual * FACTOR))
