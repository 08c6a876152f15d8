"""Many times in, a few numbers out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

PERCENTILES = (50, 95, 99)
P99_FROM = 100
"""Below this many values the 99th percentile is their maximum, and says nothing of its own."""


def percentile(values: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile: the smallest value that at least `percent` % of the values do not exceed.

    It is always one of the values, never a mean of two.
    """
    rank = -(-percent * len(values) // 100)
    return sorted(values)[max(rank, 1) - 1]


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 by nearest rank, and mean. p99 is None for fewer than P99_FROM values."""
    numbers: dict[str, float | None] = {
        f"p{percent}": percentile(values, percent) if percent < 99 or len(values) >= P99_FROM else None
        for percent in PERCENTILES
    }
    return numbers | {"mean": sum(values) / len(values)}
