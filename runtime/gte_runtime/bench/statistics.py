"""Summarises many timings in a few numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

PERCENTILES = (50, 95, 99)
P99_FROM = 100
"""The fewest values for a 99th percentile; with fewer it would be their maximum."""


def percentile(values: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile: the smallest of the values such that at least `percent` % of them are not
    larger."""
    rank = -(-percent * len(values) // 100)
    return sorted(values)[max(rank, 1) - 1]


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 by nearest rank, and mean. p99 is None for fewer than P99_FROM values."""
    numbers: dict[str, float | None] = {
        f"p{percent}": percentile(values, percent) if percent < 99 or len(values) >= P99_FROM else None
        for percent in PERCENTILES
    }
    return numbers | {"mean": sum(values) / len(values)}
