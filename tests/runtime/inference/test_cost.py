"""What runs and texts cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.inference.cost import Cost


@given(st.floats(0.1, 100), st.floats(0.55, 0.99), st.integers(2, 16), st.floats(1, 1000))
def test_the_smallest_share_is_where_both_ways_take_as_long(
    run: float, all_threads: float, workers: int, tokens: float
):
    """From there on, and only from there on, runs side by side end sooner than one on all processors."""
    if workers * all_threads < 1.01:
        return
    cost = Cost(run=run, all_threads=all_threads)
    side_by_side, one = run + tokens, (run + workers * tokens) / workers / all_threads
    smallest = cost.smallest_share(workers)
    assert abs(tokens - smallest) < 1e-6 * smallest or (side_by_side < one) == (tokens > smallest)
