"""The cost model of the planner: how long a run on a CPU takes, relative to others. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Costs of ragged runs on a CPU. The unit is the time that one token takes in the linear layers. Costs
    decide speed, never results.

    The defaults were measured for float32 on two cores of a Sapphire Rapids. How, and how far they hold on
    other processors: docs/decisions/planner-costs.md.
    """

    run: float = 28.0
    """Fixed cost of a run: every weight is read once, however few tokens there are."""
    scores: int = 5100
    """Attention scores per head (n² for a text of n tokens) that cost as much as one token."""
    all_threads: float = 0.86
    """Throughput of one run on all processors, divided by that of one run at a time on each processor."""
    cache_tokens: int = 1024
    """Tokens of a run whose activations fill the cache. Runs on one processor each are no larger."""

    def of(self, count: int, tokens: int, longest: int) -> float:
        """Cost of a run of `count` texts of at most `longest` tokens each and `tokens` in all."""
        return self.run + tokens + count * longest**2 / self.scores

    def of_text(self, length: int) -> float:
        """Cost that one text of `length` tokens adds to a run."""
        return length + length**2 / self.scores

    def smallest_share(self, workers: int) -> float:
        """The fewest tokens for each of `workers` runs at the same time; with fewer, one run on all
        processors takes less time.

        It is the t with run + t = (run + workers t) / (workers all_threads), the times of both for t tokens
        per worker.
        """
        gain = 1 / self.all_threads - 1
        return self.run * (1 - 1 / (workers * self.all_threads)) / gain if gain > 0 else float("inf")


COSTS = {"cpu-int8": Cost(run=30.0, scores=1100, all_threads=0.75, cache_tokens=256)}
"""Costs of variants for which the defaults do not fit. Attention and everything between products is float32
in every variant, so it costs more relative to products in int8."""
