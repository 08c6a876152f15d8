"""What runs cost, in a unit that all of the planner shares. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a ragged run on a CPU. The unit is what one more token costs in the linear layers. Decides speed, never results.

    The defaults are for float32, measured on two cores of a Sapphire Rapids; docs/decisions/planner-costs.md says how, and what
    other processors have in common with it.
    """

    run: float = 28.0
    """Of a run itself: every weight is read once, however few tokens there are."""
    scores: int = 5100
    """Attention scores, per head, that cost as much as one token."""
    all_threads: float = 0.86
    """Throughput of one run on all processors, as a share of that of as many runs on one processor each."""
    cache_tokens: int = 1024
    """Tokens of a run beyond which its activations leave the cache. Runs that go on at the same time are no larger."""

    def of(self, count: int, tokens: int, longest: int) -> float:
        """Of one run of `count` texts of at most `longest` tokens, `tokens` in all."""
        return self.run + tokens + count * longest**2 / self.scores

    def of_text(self, length: int) -> float:
        """What one text adds to a run: its tokens and its attention."""
        return length + length**2 / self.scores

    def smallest_share(self, workers: int) -> float:
        """Tokens of a run below which one run on all processors ends sooner than as many runs at the same time.

        From run + t = (run + workers t) / (workers all_threads): both sides are the time for t tokens per worker.
        """
        gain = 1 / self.all_threads - 1
        return self.run * (1 - 1 / (workers * self.all_threads)) / gain if gain > 0 else float("inf")


COSTS = {"cpu-int8": Cost(run=30.0, scores=1100, all_threads=0.75, cache_tokens=256)}
"""By variant, where the defaults do not fit. Attention and all passes over memory are float32 in every variant, so relative to
int8 products they cost more."""
