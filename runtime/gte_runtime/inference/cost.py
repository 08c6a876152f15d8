"""TODO"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a ragged run costs. The unit is what one more token costs in the linear layers. Decides speed, never results.

    The numbers are those of float32 on two cores of a Sapphire Rapids; how they were measured stands in
    benchmarks/NOTES-cpu.md, and what other processors have in common with it.
    """

    run: float = 28.0
    """The run itself: every weight is read once, however few tokens there are."""
    scores: int = 5100
    """Attention scores, per head, that cost as much as a token."""
    together: float = 0.86
    """Speed of one run on all processors, against as many runs on one each."""
    share: int = 1024
    """Tokens of a run beyond which activations leave the cache; where runs go on side by side they are no larger."""

    def of(self, count: int, tokens: int, longest: int) -> float:
        """Of one run of `count` texts."""
        return self.run + tokens + count * longest**2 / self.scores

    def smallest_share(self, workers: int) -> float:
        """Tokens of a run below which one on all processors ends sooner than as many side by side.

        From run + t = (run + workers t) / (workers together): both sides are the time for t tokens per worker.
        """
        gain = 1 / self.together - 1
        return self.run * (1 - 1 / (workers * self.together)) / gain if gain > 0 else float("inf")


COSTS = {"cpu-int8": Cost(run=30.0, scores=1100, together=0.75, share=256)}
"""Attention and all passes over memory are float32 in every variant, so beside int8 products they weigh more."""
