"""`gte bench latency`: exact lengths, honest percentiles, stages that add up.

No test looks at how long anything took.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gte_runtime import Embedder
from gte_runtime.bench import latency
from gte_runtime.bench.latency import STAGES, Options, Work, measure, record, timed_encode, works
from gte_runtime.errors import ConfigError
from gte_runtime.inference.plan import Budget


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle, threads=1) as engine:
        yield engine


@pytest.mark.parametrize("variant", ["cpu-fp32", "portable-fp32"])
@pytest.mark.parametrize("budget", [Budget(), Budget(max_tokens=20)])
def test_the_timed_call_is_encode(tiny_bundle: Path, variant: str, budget: Budget):
    """What is timed gives what `encode` gives, bit for bit: nothing is measured that users do not run,
    nothing left out.
    """
    texts = ["", "北京", "the capital of China " * 9, "a", "the and of to " * 40]
    with Embedder.open(tiny_bundle, threads=1, variant=variant, budget=budget) as engine:
        call, found = timed_encode(engine, texts)
        expected = engine.encode(texts, max_length=engine.max_length)
    assert np.array_equal(found.dense, expected.dense)
    assert [v.as_dict() for v in found.sparse] == [v.as_dict() for v in expected.sparse]
    assert np.array_equal(found.tokens, expected.tokens)
    assert call.tokens == expected.tokens.sum()
    assert call.runs > 1 or budget == Budget()


def test_stages_add_up_to_the_total(engine: Embedder, monkeypatch: pytest.MonkeyPatch):
    """Between the first and the last look at the clock, every nanosecond belongs to one stage."""
    looks: list[int] = []

    def clock() -> int:
        looks.append(2 ** len(looks))
        return looks[-1]

    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter_ns=clock))
    call, _ = timed_encode(engine, ["a", "the of " * 50])
    assert tuple(call.stages) == STAGES
    assert all(call.stages.values())
    assert call.total == sum(call.stages.values()) == looks[-1] - looks[0]


def test_calls_are_counted_after_the_warm_up(engine: Embedder, monkeypatch: pytest.MonkeyPatch):
    """Warm-up calls run and do not count; without repeats, time decides, but a few calls are always made."""
    seen: list[tuple[str, ...]] = []

    def recorded(engine: Embedder, texts: list[str]) -> tuple[None, None]:
        seen.append(tuple(texts))
        return None, None

    monkeypatch.setattr(latency, "timed_encode", recorded)
    work = Work(None, 2, ["a", "b", "c"])
    assert len(measure(engine, work, Options(repeats=4, warmup=3)).calls) == 4
    assert seen[:4] == [("a", "b"), ("c", "a"), ("b", "c"), ("a", "b")]
    assert len(seen) == 7
    ticks = itertools.count(0, 10**9)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter_ns=lambda: next(ticks)))
    assert len(measure(engine, work, Options(seconds=1, warmup=0)).calls) == latency.FEWEST_CALLS
    assert len(measure(engine, work, Options(seconds=20, warmup=0)).calls) > latency.FEWEST_CALLS


def test_cells_are_each_length_with_each_batch(engine: Embedder):
    """Every text of a cell has its length, repeated options count once, and lengths are checked before
    anything runs.
    """
    found = list(works(engine, Options(tokens=(5, 9, 5), batches=(1, 3, 1))))
    assert [(work.tokens, work.batch) for work in found] == [(5, 1), (5, 3), (9, 1), (9, 3)]
    for work in found:
        assert len(work.texts) == work.batch * latency.DISTINCT
        assert set(engine.encode(work.texts).tokens.tolist()) == {work.tokens}
    with pytest.raises(ConfigError, match="tokens is 9000; expected an integer from 2 to 8192"):
        works(engine, Options(tokens=(5, 9000)))
    with pytest.raises(ConfigError, match="no texts"):
        works(engine, Options(), [])
    with pytest.raises(ConfigError, match="leave tokens away"):
        works(engine, Options(tokens=(5,)), ["a"])


def test_a_record_holds_a_cell(engine: Embedder):
    """Rates and means follow from the calls, in milliseconds."""
    calls = [
        latency.Call(dict(zip(STAGES, (n, 2 * n, 3 * n, 4 * n), strict=True)), 50, 1, 2)
        for n in (1_000_000, 3_000_000)
    ]
    found = record(latency.Cell(Work(None, 5, []), calls))
    assert found["tokens_per_second"] == 2500
    assert (
        found["n"],
        found["batch"],
        found["tokens_per_call"],
        found["runs_per_call"],
        found["truncated"],
    ) == (2, 5, 50, 2, 2)
    assert found["ms"]["total"] == {"p50": 10, "p95": 30, "p99": None, "mean": 20}
    assert found["ms"]["collect"]["mean"] == 8


@pytest.mark.parametrize(
    "options",
    [
        {"batches": (0,)},
        {"batches": (True,)},
        {"batches": (10_001,)},
        {"seconds": 0},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"repeats": 0},
        {"warmup": -1},
        {"warmup": 1.5},
    ],
)
def test_options_check_themselves(options: dict):
    with pytest.raises(ConfigError, match="expected"):
        Options(**options)
