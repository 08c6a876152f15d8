"""Plans cover every text once and keep their budgets; batches say where each token goes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gte_runtime.errors import ConfigError
from gte_runtime.format.manifest import STATES, Variant
from gte_runtime.inference.batch import make_batch
from gte_runtime.inference.cost import Cost
from gte_runtime.inference.plan import (
    SMALLEST_PACKED,
    Budget,
    Plan,
    _cheapest,
    _pieces,
    budget_at_the_same_time,
    budget_of_each_device,
    plan_packed,
    plan_padded,
    plan_ragged,
    plan_runs,
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


# Limits: what fills a budget exactly fits


def sizes_of(groups: list[NDArray[np.int64]]) -> list[int]:
    return [len(group) for group in groups]


def test_what_fills_a_budget_fits():
    """A run may have exactly `max_tokens` tokens and `max_scores` scores, and not one more."""
    wide = Budget(max_tokens=10**9, max_scores=10**9)
    for plan in (partial(plan_ragged, flash_from=FLASH), plan_padded):
        assert sizes_of(plan([10] * 6, budget=replace(wide, max_tokens=60))) == [6]
        assert sizes_of(plan([10] * 6, budget=replace(wide, max_scores=600))) == [6]
        assert sorted(sizes_of(plan([10] * 6, budget=replace(wide, max_tokens=59)))) in ([3, 3], [1, 5])
        assert sorted(sizes_of(plan([10] * 6, budget=replace(wide, max_scores=599)))) in ([3, 3], [1, 5])
    assert sizes_of(plan_packed([10] * 6, replace(wide, max_tokens=60))) == [6]
    assert sizes_of(plan_packed([10] * 6, replace(wide, max_tokens=59))) == [5, 1]
    assert sizes_of(plan_ragged([FLASH] * 7, FLASH, Budget(max_tokens=3 * FLASH))) == [3, 3, 1]
    assert sizes_of(plan_ragged([FLASH] * 7, FLASH, Budget(max_tokens=3 * FLASH - 1))) == [2, 2, 2, 1]


def test_scores_do_not_limit_long_texts():
    """Their path through attention stores no scores: only tokens limit a run."""
    assert sizes_of(plan_ragged([FLASH] * 4, FLASH, Budget(max_scores=1))) == [4]


def test_a_group_beyond_the_budget_is_split_evenly():
    """Into as few runs as fit, of as many tokens each: three runs of four texts, not five, five and two."""
    cost = Cost(run=10**6)
    assert sizes_of(plan_ragged([10] * 12, FLASH, Budget(max_tokens=50), cost)) == [4, 4, 4]
    assert sizes_of(plan_ragged([10] * 12, FLASH, Budget(max_scores=500), cost)) == [4, 4, 4]
    groups = plan_ragged([2] * 20 + [40], FLASH, Budget(max_tokens=40, max_scores=10**6), cost)
    assert sizes_of(groups) == [20, 1]


@pytest.mark.parametrize(
    ("sizes", "budget", "expected"),
    [
        ([10, 10, 10, 10], Budget(max_tokens=20, max_scores=10**6), [2, 2]),
        ([10, 20, 30, 40], Budget(max_tokens=50, max_scores=10**6), [1, 1, 1, 1]),
        ([10, 10, 20, 20, 20, 20], Budget(max_tokens=10**6, max_scores=900), [2, 1, 1, 1, 1]),
        ([10, 10, 20, 20, 20, 20], Budget(max_tokens=60, max_scores=1200), [3, 2, 1]),
        ([10] * 5, Budget(max_tokens=10**6, max_scores=200), [2, 2, 1]),
    ],
)
def test_an_even_split_that_is_too_large_is_split_further(
    sizes: list[int], budget: Budget, expected: list[int]
):
    """Half of the tokens may be too much for a run, or too many scores: each run keeps both limits."""
    groups = _pieces(np.arange(len(sizes)), np.array(sizes), budget)
    assert np.concatenate(groups).tolist() == list(range(len(sizes)))
    assert sizes_of(groups) == expected


@given(lengths, budgets)
def test_equals_keep_their_order(lengths: list[int], budget: Budget):
    """Every sort is stable, so a plan does not depend on numpy's version: equal texts stay in order."""
    for groups in (
        plan_ragged(lengths, FLASH, budget),
        plan_padded(lengths, budget),
        plan_packed(lengths, budget),
    ):
        rows = [int(row) for group in groups for row in group]
        for length in set(lengths):
            equal = [row for row in rows if lengths[row] == length]
            assert equal == sorted(equal)


@given(
    st.lists(st.integers(2, 12), min_size=1, max_size=7),
    budgets,
    st.floats(0, 200),
    st.integers(1, 3000),
)
def test_groups_that_the_budget_splits_cost_more(lengths: list[int], budget: Budget, run: float, scores: int):
    """Each further run that a group needs costs `run`: against all ways to cut the lengths that occur."""
    cost, sizes = Cost(run=run, scores=scores), np.array(sorted(lengths))

    def price(group: list[int]) -> float:
        tokens, longest = sum(group), group[-1]
        runs = 1
        while runs * budget.max_tokens < tokens or runs * budget.max_scores < len(group) * longest**2:
            runs += 1
        return cost.of(len(group), tokens, longest) + (runs - 1) * run

    found = _cheapest(np.arange(len(sizes)), sizes, budget, cost)
    assert np.concatenate(found).tolist() == list(range(len(sizes)))
    places = [place for place in range(1, len(sizes)) if sizes[place - 1] < sizes[place]]
    prices = [
        sum(price(part.tolist()) for part in np.split(sizes, cuts))
        for count in range(len(places) + 1)
        for cuts in itertools.combinations(places, count)
    ]
    assert sum(price(sizes[group].tolist()) for group in found) == pytest.approx(min(prices))


# Shares


def test_work_is_shared_from_the_smallest_share_on():
    """By example: 20 tokens for each of four runs are enough, 19 are not; a last token is rounded up."""
    cost = Cost(run=40.0, all_threads=0.5, cache_tokens=100)
    assert cost.smallest_share(4) == 20
    found = [
        budget_at_the_same_time(Budget(), n, 4, cost).max_tokens for n in (0, 1, 76, 77, 80, 81, 400, 404)
    ]
    assert found == [1, 1, 76, 20, 20, 21, 100, 100]
    assert budget_at_the_same_time(Budget(max_tokens=7), 80, 4, cost).max_tokens == 7


def test_scores_are_divided():
    """Runs at the same time hold together as many scores as one may; at least one each."""
    scores = [budget_at_the_same_time(Budget(max_scores=n), 10, 4).max_scores for n in (1, 3, 4, 11, 12)]
    assert scores == [1, 1, 1, 2, 3]


def test_devices_share_from_the_smallest_run_on():
    """A device gets its part of the tokens, rounded up, but no fewer than make a run worth it."""
    budget, least = Budget(max_tokens=10**6, max_scores=77), SMALLEST_PACKED
    for tokens, expected in ((40_000, 10_000), (40_001, 10_001), (4 * least, least), (4 * least - 9, least)):
        assert budget_of_each_device(budget, tokens, 4) == replace(budget, max_tokens=expected)
    assert budget_of_each_device(Budget(max_tokens=100), 40_000, 4) == Budget(max_tokens=100)


def test_many_runs_on_all():
    """Up to sixteen runs, or all of them, run on all processors before the others run at the same time."""
    assert runs_on_all([], 4, 0.9) == 0
    assert runs_on_all([1000.0] * 16 + [1.0] * 4000, 32, 0.99) == 16
    assert runs_on_all([1000.0] * 5, 4, 0.99) == 1
    assert runs_on_all([1000.0] * 21, 32, 0.99) == 21
    assert runs_on_all([100.0, 1.0], 1, 0.5) == 0


# The whole plan


def variant(batch: str) -> Variant:
    return Variant(
        graph="g.onnx",
        weights=(),
        batch=batch,
        inputs=(),
        outputs=STATES,
        min_onnxruntime="1.0",
        tolerance=0.0,
        flash_from=FLASH,
    )


@given(lengths, budgets, st.integers(1, 5))
def test_the_most_expensive_run_is_first(lengths: list[int], budget: Budget, workers: int):
    """Runs descend by cost; those that are too large for a part of the budget have all processors."""
    cost = Cost()
    plan = plan_runs(lengths, variant("ragged"), budget, workers, cost, on_cpu=True)
    tokens = [sum(lengths[row] for row in group) for group in plan.groups]
    costs = [
        cost.of(len(group), total, max(lengths[row] for row in group))
        for group, total in zip(plan.groups, tokens, strict=True)
    ]
    assert costs == sorted(costs, reverse=True)
    assert sorted(row for group in plan.groups for row in group.tolist()) == list(range(len(lengths)))
    large = sum(total > budget.max_tokens // workers for total in tokens)
    assert plan.on_all == max(large, runs_on_all(costs, workers, cost.all_threads))


def test_a_run_beyond_its_part_of_the_budget_is_alone():
    """Of two processors each may hold half of the budget: a run of exactly that much is beside others."""
    cost = Cost(cache_tokens=200, all_threads=0.1)
    for max_tokens, on_all in ((400, 0), (399, 8)):
        budget = Budget(max_tokens=max_tokens)
        plan = plan_runs([200] * 8, variant("ragged"), budget, 2, cost, on_cpu=True)
        assert (sizes_of(plan.groups), plan.on_all) == ([1] * 8, on_all)


def test_a_run_costs_what_its_longest_text_makes_it_cost():
    """In the path with a mask all are padded to the longest: four texts up to 40 cost more than one of 64."""
    cost = Cost(run=10**5, scores=1)
    plan = plan_runs([64, 2, 2, 2, 40], variant("ragged"), Budget(), 1, cost, on_cpu=True)
    assert [group.tolist() for group in plan.groups] == [[1, 2, 3, 4], [0]]


def test_padded_plans():
    """The largest run is first; on a CPU each has all processors, on GPUs none waits for another."""
    budget = Budget(max_tokens=100)
    for on_cpu in (True, False):
        plan = plan_runs([10, 50, 20, 50, 10], variant("padded"), budget, 2, Cost(), on_cpu=on_cpu)
        assert [group.tolist() for group in plan.groups] == [[1, 3], [0, 4, 2]]
        assert plan.on_all == (2 if on_cpu else 0)


def test_packed_plans_are_spread_over_devices():
    """As `plan_packed` with a device's part; no run has more than one device."""
    lengths, budget = [4096] * 6, Budget(max_tokens=32768)
    plan = plan_runs(lengths, variant("packed"), budget, 3, Cost(), on_cpu=False)
    assert ([group.tolist() for group in plan.groups], plan.on_all) == ([[0, 1], [2, 3], [4, 5]], 0)


@pytest.mark.parametrize("batch", ["ragged", "padded", "packed"])
def test_no_texts_no_runs(batch: str):
    assert plan_runs([], variant(batch), Budget(), 2, Cost(), on_cpu=True) == Plan([], 0)
