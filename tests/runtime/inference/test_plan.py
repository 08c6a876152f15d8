"""Plans cover every text once and keep their budgets; batches say where each token goes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.errors import ConfigError
from gte_runtime.inference.batch import (
    make_batch,
)
from gte_runtime.inference.cost import Cost
from gte_runtime.inference.plan import (
    Budget,
    budget_at_the_same_time,
    budget_of_each_device,
    plan_packed,
    plan_padded,
    plan_ragged,
    runs_on_all,
)

lengths = st.lists(st.integers(2, 300), max_size=60)


budgets = st.builds(Budget, max_tokens=st.integers(1, 2000), max_scores=st.integers(1, 100_000))


FLASH = 64


@given(lengths, budgets)
def test_every_text_runs_once(lengths: list[int], budget: Budget):
    """Whatever the lengths and budgets, each text stands in exactly one group."""
    for plan in (plan_ragged(lengths, FLASH, budget), plan_padded(lengths, budget)):
        assert sorted(np.concatenate([np.zeros(0, np.int64), *plan]).tolist()) == list(range(len(lengths)))


@given(lengths, budgets)
def test_ragged_groups_keep_their_budget(lengths: list[int], budget: Budget):
    """Several texts share a run only within the token budget, and short ones within the score budget."""
    for group in plan_ragged(lengths, FLASH, budget):
        members = [lengths[row] for row in group]
        if len(members) == 1:
            continue
        assert sum(members) <= budget.max_tokens
        if max(members) < FLASH:
            assert len(members) * max(members) ** 2 <= budget.max_scores


@given(lengths, budgets)
def test_the_path_follows_the_own_length(lengths: list[int], budget: Budget):
    """A group never mixes the two attention paths, and long texts share runs only with equally long ones."""
    ids = [np.zeros(n, np.int64) for n in lengths]
    for group in plan_ragged(lengths, FLASH, budget):
        members = {lengths[row] for row in group}
        batch = make_batch(group, ids, FLASH)
        assert all((n >= FLASH) == batch.uniform for n in members)
        if batch.uniform:
            assert len(members) == 1


@given(lengths, budgets)
def test_padded_groups_keep_their_budget(lengths: list[int], budget: Budget):
    """Padding counts: a padded run is as large as its longest text times its texts."""
    for group in plan_padded(lengths, budget):
        members = [lengths[row] for row in group]
        if len(members) > 1:
            assert len(members) * max(members) <= budget.max_tokens
            assert len(members) * max(members) ** 2 <= budget.max_scores


def test_short_texts_share_a_run():
    """Sixty-four queries are one run, not sixty-four."""
    assert len(plan_ragged([6 + n % 15 for n in range(64)], FLASH, Budget())) == 1


def price(lengths: list[int], groups: list[list[int]], cost: Cost) -> float:
    return sum(
        cost.of(len(group), sum(lengths[row] for row in group), max(lengths[row] for row in group))
        for group in groups
    )


@given(st.lists(st.integers(2, 60), min_size=1, max_size=7), st.floats(0, 200), st.integers(1, 3000))
def test_short_texts_are_grouped_where_it_costs_least(lengths: list[int], run: float, scores: int):
    """No way to cut the sorted texts costs less. Tried: all of them."""
    cost = Cost(run=run, scores=scores)
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    found = price(lengths, [group.tolist() for group in plan_ragged(lengths, FLASH, Budget(), cost)], cost)
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        groups = [[order[0]]]
        for row, cut in zip(order[1:], cuts, strict=True):
            groups = [*groups, [row]] if cut else [*groups[:-1], [*groups[-1], row]]
        assert found <= price(lengths, groups, cost) + 1e-6


def test_few_long_texts_do_not_make_many_short_ones_pay():
    """Two hundred queries and a few passages: in one masked run every query would be padded to a passage."""
    groups = plan_ragged([8] * 200 + [60] * 4, FLASH, Budget(), Cost(scores=500))
    assert sorted(len(group) for group in groups) == [4, 200]


@given(st.lists(st.floats(1, 1000), max_size=9), st.integers(1, 5))
def test_runs_on_all_are_never_slower_than_all_or_none(costs: list[float], workers: int):
    """Against the slow way to compute when the last run ends."""
    costs = sorted(costs, reverse=True)

    def ends(wide: int) -> float:
        free = [0.0] * workers
        for cost in costs[wide:]:
            free[free.index(min(free))] += cost
        return sum(costs[:wide]) / workers / 0.8 + max(free)

    chosen = runs_on_all(costs, workers, 0.8)
    assert workers == 1 or ends(chosen) <= min(ends(n) for n in range(len(costs) + 1)) + 1e-6


def test_runs_on_all_by_example():
    """A long text beside short ones gets all processors, equals run side by side."""
    assert runs_on_all([100.0], 4, 0.87) == 1
    assert runs_on_all([100.0] * 8, 4, 0.87) == 0
    assert runs_on_all([1000.0, 10.0, 10.0], 2, 0.87) == 1


@given(st.integers(0, 100_000), st.integers(1, 64), budgets)
def test_shares_keep_the_budget(tokens: int, workers: int, budget: Budget):
    """Runs side by side hold no more scores than one run may, and no run more tokens."""
    each = budget_at_the_same_time(budget, tokens, workers)
    assert each.max_tokens <= budget.max_tokens
    assert each.max_scores * workers <= max(budget.max_scores, workers)


def test_work_is_shared_when_there_is_enough_of_it():
    """Little work stays in one run; more is spread evenly; much is cut at what the cache holds."""
    cost = Cost(run=30.0, all_threads=0.75, cache_tokens=256)
    assert [
        budget_at_the_same_time(Budget(), tokens, 2, cost).max_tokens for tokens in (40, 100, 400, 4000)
    ] == [
        40,
        50,
        200,
        256,
    ]


def test_a_text_beyond_the_budget_runs_alone():
    """A budget never refuses a text."""
    assert [g.tolist() for g in plan_ragged([9000], FLASH, Budget(max_tokens=100))] == [[0]]


@pytest.mark.parametrize("field", ["max_tokens", "max_scores"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "8", None])
def test_budgets_check_themselves(field: str, value: object):
    """A budget that is no positive integer is refused by name."""
    with pytest.raises(ConfigError, match=field):
        Budget(**{field: value})  # type: ignore[arg-type]


LENGTHS = st.lists(st.integers(2, 600), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 5000), st.integers(1, 8))
def test_packed_plans(lengths: list[int], tokens: int, devices: int):
    """Every text once; no run above the budget but a text by itself; longest first."""
    budget = budget_of_each_device(Budget(max_tokens=tokens), sum(lengths), devices)
    groups = plan_packed(lengths, budget)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    sums = [sum(lengths[row] for row in group) for group in groups]
    assert all(
        total <= budget.max_tokens or len(group) == 1 for total, group in zip(sums, groups, strict=True)
    )
    order = [lengths[row] for group in groups for row in group]
    assert order == sorted(order, reverse=True)


def test_several_devices_share_a_call():
    """Work that is worth it is cut so that every device gets some; little work stays whole."""
    lengths = [512] * 64
    assert len(plan_packed(lengths, budget_of_each_device(Budget(max_tokens=32768), sum(lengths), 1))) == 1
    assert len(plan_packed(lengths, budget_of_each_device(Budget(max_tokens=32768), sum(lengths), 4))) == 4
    assert len(plan_packed([16] * 8, budget_of_each_device(Budget(max_tokens=32768), 128, 4))) == 1
