"""The planner: which texts run together. Lengths in, groups out. Pure: this module knows no tokens and no
device.

A plan decides speed and memory, never results. A ragged graph has two paths through attention, whose results
differ in the last bit. For batch invariance a text's own length alone decides its path, whatever else is in
its batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import Int64
from ..errors import ConfigError
from ..format.manifest import Variant
from .cost import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one run. They bound memory and affect speed, never results."""

    max_tokens: int = 8192
    """Tokens of one run, padding included. A text with more tokens runs alone."""
    max_scores: int = 4 * 2**20
    """Attention scores per head, B x S² for B texts of at most S tokens: 4 Mi are 16 MB a head in float32."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_scores"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}; expected an integer of at least 1")


SMALLEST_PACKED = 4096
"""The fewest tokens of a run for which work is spread over several GPUs: an H100 reaches 0.7 of its best
throughput with them (docs/decisions/shapes-and-cuda-graphs.md)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which texts run together, and how."""

    groups: list[Int64]
    """Positions of the texts of each run. The most expensive run is first: memory peaks at once, and the
    estimate of the remaining time does not jump at the end."""
    on_all: int
    """How many of the first groups run one after the other, each on all processors. The others run at the
    same time, each on one processor or one device."""


def budget_at_the_same_time(budget: Budget, tokens: int, workers: int, cost: Cost = Cost()) -> Budget:
    """The budget of each run on a CPU when `workers` runs share `tokens` tokens and one budget."""
    even = -(-tokens // workers)
    share = min(even if even >= cost.smallest_share(workers) else tokens, cost.cache_tokens)
    return Budget(
        max_tokens=min(budget.max_tokens, max(1, share)), max_scores=max(1, budget.max_scores // workers)
    )


def budget_of_each_device(budget: Budget, tokens: int, devices: int) -> Budget:
    """The budget of each run on GPUs, so that `tokens` tokens are spread over all devices; but no run is made
    smaller than SMALLEST_PACKED for that."""
    share = max(-(-tokens // devices), SMALLEST_PACKED)
    return Budget(max_tokens=min(budget.max_tokens, share), max_scores=budget.max_scores)


def plan_ragged(lengths: Sequence[int], flash_from: int, budget: Budget, cost: Cost = Cost()) -> list[Int64]:
    """Group texts for ragged runs.

    Texts of fewer than `flash_from` tokens are grouped with texts of similar lengths, so that the runs cost
    least. Longer ones run with texts of exactly the same length, or alone.

    Args:
        lengths: tokens of each text.
        flash_from: the variant's.
        budget: of one run.
        cost: of runs.

    Returns:
        For each run the positions of its texts in `lengths`.
    """
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(sizes, kind="stable")
    short = order[sizes[order] < flash_from]
    long = order[len(short) :]
    groups = [
        piece for group in _cheapest(short, sizes, budget, cost) for piece in _pieces(group, sizes, budget)
    ]
    for equal in np.split(long, np.flatnonzero(np.diff(sizes[long])) + 1):
        each = max(1, budget.max_tokens // int(sizes[equal[0]])) if len(equal) else 1
        groups += [equal[start : start + each] for start in range(0, len(equal), each)]
    return groups


def _cheapest(order: Int64, sizes: Int64, budget: Budget, cost: Cost) -> list[Int64]:
    """The cheapest way to split texts, sorted by length, into groups: dynamic programming over the lengths
    that occur."""
    distinct, starts = np.unique(sizes[order], return_index=True)
    bounds = [*starts.tolist(), len(order)]
    total = np.concatenate(([0], np.cumsum(sizes[order]))).tolist()
    best, back = [0.0], [0]
    for end in range(1, len(bounds)):
        longest = int(distinct[end - 1])
        options = []
        for start in range(end):
            count, tokens = bounds[end] - bounds[start], total[bounds[end]] - total[bounds[start]]
            runs = max(1, -(-tokens // budget.max_tokens), -(-count * longest**2 // budget.max_scores))
            options.append(best[start] + cost.of(count, tokens, longest) + (runs - 1) * cost.run)
        back.append(int(np.argmin(options)))
        best.append(options[back[-1]])
    groups = []
    end = len(bounds) - 1
    while end:
        groups.append(order[bounds[back[end]] : bounds[end]])
        end = back[end]
    return groups[::-1]


def _pieces(group: Int64, sizes: Int64, budget: Budget) -> list[Int64]:
    """A group, split evenly into as few runs as the budget allows."""
    tokens, scores = int(sizes[group].sum()), len(group) * int(sizes[group[-1]]) ** 2
    fewest = max(-(-tokens // budget.max_tokens), -(-scores // budget.max_scores))
    for runs in range(fewest, len(group)):
        cuts = np.searchsorted(np.cumsum(sizes[group]), np.arange(1, runs) * tokens / runs, side="left") + 1
        pieces = np.split(group, cuts)
        if all(_fits(piece, sizes, budget) for piece in pieces):
            return pieces
    return list(np.split(group, len(group)))


def _fits(piece: Int64, sizes: Int64, budget: Budget) -> bool:
    if not len(piece):
        return False
    return (
        int(sizes[piece].sum()) <= budget.max_tokens
        and len(piece) * int(sizes[piece[-1]]) ** 2 <= budget.max_scores
    )


def runs_on_all(costs: Sequence[float], workers: int, all_threads: float) -> int:
    """How many of the first runs to run one after the other on all processors, before the others run at the
    same time.

    Runs at the same time have the higher throughput, but at the end some processors are idle. A single long
    text takes least time on all processors.

    Args:
        costs: of the runs, in descending order.
        workers: processors.
        all_threads: as in `Cost`.
    """
    if workers == 1:
        return 0
    best, chosen = float("inf"), 0
    for count in {*range(min(len(costs), 16) + 1), len(costs)}:
        time = sum(costs[:count]) / workers / all_threads + _makespan(costs[count:], workers)
        if time < best:
            best, chosen = time, count
    return chosen


def _makespan(costs: Sequence[float], workers: int) -> float:
    """When the last run ends if each worker takes the next run as soon as it is free."""
    busy = [0.0] * workers
    for cost in costs:
        heapq.heapreplace(busy, busy[0] + cost)
    return max(busy)


def plan_packed(lengths: Sequence[int], budget: Budget) -> list[Int64]:
    """Group texts for packed runs, the longest first. Attention takes any mix of lengths, so only the number
    of tokens limits a run.

    Texts of similar lengths run together nevertheless: the attention kernel launches as many thread blocks
    for every text as for the longest.
    """
    groups: list[list[int]] = []
    tokens = 0
    for row in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        tokens += lengths[row]
        if groups and tokens <= budget.max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
            tokens = lengths[row]
    return [np.array(group, np.int64) for group in groups]


def plan_padded(lengths: Sequence[int], budget: Budget) -> list[Int64]:
    """Group texts for padded runs, sorted by length so that there is little padding."""
    groups: list[list[int]] = []
    for row in np.argsort(np.asarray(lengths, np.int64), kind="stable").tolist():
        # Sorted, so this length is the longest of its group.
        length, count = lengths[row], len(groups[-1]) + 1 if groups else 0
        if groups and count * length <= budget.max_tokens and count * length**2 <= budget.max_scores:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [np.array(group, np.int64) for group in groups]


def plan_runs(
    lengths: Sequence[int], variant: Variant, budget: Budget, workers: int, cost: Cost, *, on_cpu: bool
) -> Plan:
    """The plan for texts of these lengths.

    Args:
        lengths: tokens of each text.
        variant: says whether its graph is ragged, packed or padded.
        budget: of one run.
        workers: how many runs can go on at the same time: processors, or GPUs.
        cost: of ragged runs.
        on_cpu: workers are processors, of which one run can use all.
    """
    if variant.batch == "padded":
        groups = plan_padded(lengths, budget)[::-1]
        return Plan(groups, len(groups) if on_cpu else 0)
    if variant.batch == "packed":
        return Plan(plan_packed(lengths, budget_of_each_device(budget, sum(lengths), workers)), 0)
    shared = budget_at_the_same_time(budget, sum(lengths), workers, cost)
    groups = plan_ragged(lengths, variant.flash_from, shared, cost)
    tokens = [sum(lengths[row] for row in group) for group in groups]
    costs = [cost.of(len(g), t, max(lengths[row] for row in g)) for g, t in zip(groups, tokens, strict=True)]
    order = sorted(range(len(groups)), key=lambda i: -costs[i])
    # Runs at the same time share the budget of one, so larger ones run alone.
    large = sum(t > budget.max_tokens // workers for t in tokens)
    return Plan(
        [groups[i] for i in order],
        max(large, runs_on_all([costs[i] for i in order], workers, cost.all_threads)),
    )
