"""Measures the latency of `Embedder.encode` in a closed loop: one caller, each call after the end of the
last.

The stages of a call are timed: tokenize, plan, run, collect. They follow each other without a gap, so the
stages of a call add up to its total; their percentiles do not.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..embedder import Embedder
from ..errors import ConfigError
from ..results import Embeddings
from ..tokenization import check_text
from .statistics import summary
from .texts import Composer

STAGES = ("tokenize", "plan", "run", "collect")
TOKENS = (16, 128, 512)
BATCHES = (1, 8)
LARGEST_BATCH = 10_000
FEWEST_CALLS = 5
"""Least number of calls of a cell, however long they take."""
DISTINCT = 4
"""Batches of a cell that differ in their words. Calls cycle through them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure, and how long."""

    tokens: tuple[int, ...] | None = None
    """Lengths of texts, special tokens included. None: those of TOKENS that the model can run."""
    batches: tuple[int, ...] = BATCHES
    """Numbers of texts of one call."""
    seconds: float = 5.0
    """Time for each cell; at least FEWEST_CALLS calls are made."""
    repeats: int | None = None
    """Calls of each cell, instead of `seconds`."""
    warmup: int = 3
    """Calls of each cell that are not counted, before those that are."""

    def __post_init__(self) -> None:
        for batch in self.batches:
            _check_integer("batch", batch, 1, LARGEST_BATCH)
        if self.repeats is not None:
            _check_integer("repeats", self.repeats, 1)
        _check_integer("warmup", self.warmup, 0)
        if (
            isinstance(self.seconds, bool)
            or not isinstance(self.seconds, (int, float))
            or not 0 < self.seconds < math.inf
        ):
            raise ConfigError(f"seconds is {str(self.seconds)[:40]}; expected a positive number")


@dataclass(frozen=True, slots=True)
class Work:
    """The texts of one cell, in batches."""

    tokens: int | None
    """Of every text; None for the user's own texts."""
    batch: int
    texts: Sequence[str]

    def batches(self) -> Iterator[list[str]]:
        """Batches without end, cycling through the texts."""
        endless = itertools.cycle(self.texts)
        while True:
            yield list(itertools.islice(endless, self.batch))


@dataclass(frozen=True, slots=True)
class Call:
    """One timed call."""

    stages: dict[str, int]
    """Nanoseconds of each stage."""
    tokens: int
    truncated: int
    """Texts that were cut at the model's limit."""
    runs: int
    """Runs that the planner made of the call."""

    @property
    def total(self) -> int:
        return sum(self.stages.values())


@dataclass(frozen=True, slots=True)
class Cell:
    """All timed calls with the same length and batch."""

    work: Work
    calls: Sequence[Call]


@dataclass(slots=True)
class _Laps:
    """A clock whose stages follow each other without a gap."""

    stages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    last: int = field(default_factory=lambda: time.perf_counter_ns())

    def end(self, stage: str) -> None:
        """Add the time since the end of the last stage to this one."""
        now = time.perf_counter_ns()
        self.stages[stage] += now - self.last
        self.last = now


def works(embedder: Embedder, options: Options, texts: Sequence[str] | None = None) -> Iterator[Work]:
    """The work of each cell: every length with every batch, or every batch of the user's own texts.

    Lengths are checked at once; the texts of a cell are made when it is yielded.

    Raises:
        ConfigError: a length that the model cannot run; lengths together with the user's own texts; no texts.
    """
    batches = tuple(dict.fromkeys(options.batches))
    if texts is not None:
        if options.tokens is not None:
            raise ConfigError("lengths are those of the texts given; leave tokens away")
        if not texts:
            raise ConfigError("there are no texts to measure")
        return (Work(None, batch, texts) for batch in batches)
    fewest = embedder.tokenizer.specials
    lengths = (
        tuple(n for n in TOKENS if n <= embedder.max_length)
        if options.tokens is None
        else tuple(dict.fromkeys(options.tokens))
    )
    for tokens in lengths:
        _check_integer("tokens", tokens, fewest, embedder.max_length)
    composer = Composer(embedder.tokenizer)
    return (
        Work(tokens, batch, [composer.text(tokens, number) for number in range(batch * DISTINCT)])
        for tokens in lengths
        for batch in batches
    )


def measure(embedder: Embedder, work: Work, options: Options) -> Cell:
    """Warm up, then time calls until there are enough."""
    batches = work.batches()
    for _ in range(options.warmup):
        timed_encode(embedder, next(batches))
    calls: list[Call] = []
    end = time.perf_counter_ns() + int(options.seconds * 1e9)
    while not _enough(len(calls), end, options):
        calls.append(timed_encode(embedder, next(batches))[0])
    return Cell(work, calls)


def _enough(calls: int, end: int, options: Options) -> bool:
    if options.repeats is not None:
        return calls >= options.repeats
    return calls >= FEWEST_CALLS and time.perf_counter_ns() >= end


def timed_encode(embedder: Embedder, texts: Sequence[str]) -> tuple[Call, Embeddings]:
    """`embedder.encode(texts, max_length=embedder.max_length)`, with the time of each stage."""
    laps = _Laps()
    checked = [check_text(text, index) for index, text in enumerate(texts)]
    tokens = embedder.tokenizer.encode(checked, max_length=embedder.max_length)
    laps.end("tokenize")
    states = embedder.engine.run([one.ids for one in tokens], lap=laps.end)
    result = embedder.steps.collect(tokens, states, sparse=embedder.manifest.sparse)
    laps.end("collect")
    runs = len(embedder.engine.plan([len(one.ids) for one in tokens]).groups)
    return Call(laps.stages, int(result.tokens.sum()), int(result.truncated.sum()), runs), result


def record(cell: Cell) -> dict[str, Any]:
    """A cell as numbers for JSON, times in milliseconds."""
    calls = cell.calls
    tokens, nanoseconds = sum(call.tokens for call in calls), sum(call.total for call in calls)
    times = {"total": [call.total for call in calls]} | {
        stage: [call.stages[stage] for call in calls] for stage in STAGES
    }
    return {
        "tokens": cell.work.tokens,
        "batch": cell.work.batch,
        "n": len(calls),
        "tokens_per_call": round(tokens / len(calls), 1),
        "tokens_per_second": round(tokens / nanoseconds * 1e9, 1),
        "runs_per_call": round(sum(call.runs for call in calls) / len(calls), 2),
        "truncated": sum(call.truncated for call in calls),
        "ms": {stage: _milliseconds(values) for stage, values in times.items()},
    }


def _milliseconds(nanoseconds: Sequence[int]) -> dict[str, float | None]:
    return {
        name: None if value is None else round(value / 1e6, 6) for name, value in summary(nanoseconds).items()
    }


def _check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < least
        or (most is not None and value > most)
    ):
        expected = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name} is {repr(value)[:40]}; expected an integer {expected}")
