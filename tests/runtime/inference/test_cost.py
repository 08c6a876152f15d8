"""The cost of runs and of texts, to the planner and to the server's queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime import Embedder
from gte_runtime.inference.cost import COSTS, Cost
from gte_runtime.server.models import EmbeddingModel


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


@pytest.mark.parametrize("all_threads", [1.0, 1.2])
def test_where_one_run_uses_all_processors_fully(all_threads: float):
    """Nothing is gained by runs side by side, however large they are."""
    assert Cost(all_threads=all_threads).smallest_share(2) == float("inf")


costs = st.builds(Cost, run=st.floats(0, 100), scores=st.integers(1, 10_000))


@given(costs, st.integers(1, 50), st.integers(2, 8192))
def test_a_run_costs_itself_and_its_texts(cost: Cost, count: int, length: int):
    """Texts of one length in one run: what each adds is what the planner reckons for it."""
    run = cost.of(count, count * length, length)
    assert run == pytest.approx(cost.run + count * cost.of_text(length))


@given(costs, st.integers(1, 4096))
def test_a_text_costs_more_than_its_tokens(cost: Cost, length: int):
    """Attention grows with the square of the length: twice the tokens cost more than twice as much."""
    assert cost.of_text(length) > length
    assert cost.of_text(2 * length) > 2 * cost.of_text(length)
    assert cost.of_text(2 * length) - 2 * cost.of_text(length) == pytest.approx(2 * length**2 / cost.scores)


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8"])
def test_costs_of_the_longest_text(variant: str):
    """By example: of the longest text most of the cost is attention, of a query next to nothing."""
    cost = COSTS.get(variant, Cost())
    assert cost.of_text(8192) > 2 * 8192
    assert 16 < cost.of_text(16) < 16.5


def test_the_servers_cost_is_the_engines(tiny_bundle: Path):
    """What the server's queue shares out by has attention in it: one long text costs more than many short
    ones.
    """
    with Embedder.open(tiny_bundle) as gte:
        model = EmbeddingModel("tiny", gte)
        assert model.cost(8192) == gte.engine.cost.of_text(8192)
        assert model.cost(8192) > 2 * 512 * model.cost(16)
