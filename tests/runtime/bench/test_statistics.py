"""Percentiles by their definition, and none where there are too few values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.bench.statistics import percentile, summary


@given(st.lists(st.integers(0, 50), min_size=1, max_size=250), st.sampled_from([1, 50, 95, 99, 100]))
def test_percentiles_are_nearest_rank(values: list[int], percent: int):
    """The fast version finds what the definition says: the smallest value that so many per cent do not
    exceed.
    """
    slow = min(v for v in values if 100 * sum(other <= v for other in values) >= percent * len(values))
    assert percentile(values, percent) == slow
    assert percentile(values[::-1], percent) == slow


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=220))
def test_no_p99_of_few_values(values: list[int]):
    """Below a hundred values p99 would be the maximum by another name, so there is none."""
    found = summary(values)
    assert set(found) == {"p50", "p95", "p99", "mean"}
    assert (found["p99"] is None) == (len(values) < 100)
    assert found["mean"] == pytest.approx(np.mean(values))
