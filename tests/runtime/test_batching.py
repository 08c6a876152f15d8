"""Plans cover every text once and keep their budgets; batches say where each token goes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.errors import ConfigError
from gte_runtime.inference.batch import make_batch, padded_inputs, padding_mask, ragged_inputs
from gte_runtime.inference.cost import Cost
from gte_runtime.inference.plan import Budget, plan_padded, plan_ragged, runs_together, shared

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
    """A group never mixes texts of the two attention paths, and long ones share runs only with their equals."""
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
    """Two hundred queries beside a few passages: in one masked run every query would be padded to a passage."""
    groups = plan_ragged([8] * 200 + [60] * 4, FLASH, Budget(), Cost(scores=500))
    assert sorted(len(group) for group in groups) == [4, 200]


@given(st.lists(st.floats(1, 1000), max_size=9), st.integers(1, 5))
def test_runs_together_are_never_slower_than_all_or_none(costs: list[float], workers: int):
    """Against the slow way to compute when the last run ends."""
    costs = sorted(costs, reverse=True)

    def ends(wide: int) -> float:
        free = [0.0] * workers
        for cost in costs[wide:]:
            free[free.index(min(free))] += cost
        return sum(costs[:wide]) / workers / 0.8 + max(free)

    chosen = runs_together(costs, workers, 0.8)
    assert workers == 1 or ends(chosen) <= min(ends(n) for n in range(len(costs) + 1)) + 1e-6


def test_runs_together_by_example():
    """A long text beside short ones gets all processors, equals run side by side."""
    assert runs_together([100.0], 4, 0.87) == 1
    assert runs_together([100.0] * 8, 4, 0.87) == 0
    assert runs_together([1000.0, 10.0, 10.0], 2, 0.87) == 1


@given(st.integers(0, 100_000), st.integers(1, 64), budgets)
def test_shares_keep_the_budget(tokens: int, workers: int, budget: Budget):
    """Runs side by side hold no more scores than one run may, and no run more tokens."""
    each = shared(budget, tokens, workers)
    assert each.max_tokens <= budget.max_tokens
    assert each.max_scores * workers <= max(budget.max_scores, workers)


@given(st.floats(0.1, 100), st.floats(0.55, 0.99), st.integers(2, 16), st.floats(1, 1000))
def test_the_smallest_share_is_where_both_ways_take_as_long(
    run: float, together: float, workers: int, tokens: float
):
    """From there on, and only from there on, runs side by side end sooner than one on all processors."""
    if workers * together < 1.01:
        return
    cost = Cost(run=run, together=together)
    side_by_side, one = run + tokens, (run + workers * tokens) / workers / together
    smallest = cost.smallest_share(workers)
    assert abs(tokens - smallest) < 1e-6 * smallest or (side_by_side < one) == (tokens > smallest)


def test_work_is_shared_when_there_is_enough_of_it():
    """Little work stays in one run; more is spread evenly; much is cut at what the cache holds."""
    cost = Cost(run=30.0, together=0.75, share=256)
    assert [shared(Budget(), tokens, 2, cost).max_tokens for tokens in (40, 100, 400, 4000)] == [
        40,
        50,
        200,
        256,
    ]


def test_a_text_beyond_the_budget_runs_alone():
    """A budget never refuses a text."""
    assert [g.tolist() for g in plan_ragged([9000], FLASH, Budget(max_tokens=100))] == [[0]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_index_arrays_lead_there_and_back(lengths: list[int]):
    """Gathering by padded_index and flattening by flat_index gives every token back in its place."""
    ids = [np.arange(100 * n, 100 * n + length) for n, length in enumerate(lengths)]
    inputs = ragged_inputs(make_batch(np.arange(len(ids)), ids, FLASH))
    tokens = inputs["input_ids"]
    padded = tokens[inputs["padded_index"]]
    assert np.array_equal(padded.ravel()[inputs["flat_index"]], tokens)
    assert [row[:length].tolist() for row, length in zip(padded, lengths, strict=True)] == [
        i.tolist() for i in ids
    ]
    assert inputs["position_ids"].tolist() == [p for length in lengths for p in range(length)]
    assert np.diff(inputs["cu_seqlens"]).tolist() == lengths


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_padded_arrays(lengths: list[int]):
    """Masked places hold the padding id, the others the tokens in order."""
    ids = [np.arange(100 * n + 1, 100 * n + 1 + length) for n, length in enumerate(lengths)]
    batch = make_batch(np.arange(len(ids)), ids, FLASH)
    inputs = padded_inputs(batch, pad_id=7)
    mask = inputs["attention_mask"].astype(bool)
    assert np.array_equal(mask, padding_mask(batch))
    assert np.array_equal(inputs["input_ids"][mask], batch.input_ids)
    assert (inputs["input_ids"][~mask] == 7).all()


@pytest.mark.parametrize("field", ["max_tokens", "max_scores"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "8", None])
def test_budgets_check_themselves(field: str, value: object):
    """A budget that is no positive integer is refused by name."""
    with pytest.raises(ConfigError, match=field):
        Budget(**{field: value})
