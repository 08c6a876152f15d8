"""A short soak of the server, and that it fails where the server leaks. `make soak` is the long one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from soak import Sample, problems, soak

MIB = 2**20
SETTLING = 0.06
"""Growth that is allowed in 20 seconds, after which the allocator has not come to rest."""


def series(resident: list[float], threads: int = 11, descriptors: int = 13) -> list[Sample]:
    return [Sample(int(m * MIB), threads, descriptors) for m in resident]


def test_a_plateau_is_no_growth():
    """Noise, a warm-up, dips and peaks of single samples are none."""
    choose = random.Random(0)
    noisy = [300 + choose.uniform(-8, 8) for _ in range(200)]
    warm = [200 + i / 2 for i in range(50)] + noisy[50:]
    dips = [230 if i % 9 == 0 else m for i, m in enumerate(noisy)]
    peaks = [*noisy[:195], 500, 500, *noisy[197:]]
    for good in (noisy, warm, dips, peaks):
        assert problems(series(good)) == []


def test_growth_is_named():
    """A leak of a thirtieth over the run, one thread, one descriptor; and too few samples say nothing."""
    assert "memory grows" in problems(series([300 + i * 15 / 200 for i in range(200)]))[0]
    flat = series([300] * 100)
    for more, name in ((Sample(300 * MIB, 12, 13), "threads"), (Sample(300 * MIB, 11, 14), "descriptors")):
        (found,) = problems([*flat, more])
        assert found.startswith(f"{name} grow")
    assert problems(flat[:7]) != []


def run(embedder: Path, reranker: Path, folder: Path, seconds: float, *leaks: str) -> dict[str, Any]:
    return soak(
        embedder,
        "cpu-fp32",
        reranker,
        folder,
        seconds=seconds,
        pool=32,
        longest=2048,
        leaks=leaks,
        growth=SETTLING,
    )


@pytest.mark.slow
def test_a_short_soak(tiny_bundle: Path, reranker_bundle: Path, tmp_path: Path):
    """All kinds of traffic, and nothing to complain of."""
    report = run(tiny_bundle, reranker_bundle, tmp_path, 20)
    assert report["problems"] == [], report
    assert report["compared"] > 50
    assert len(report["requests"]) == 7
    assert report["requests"]["leave"] > 0


@pytest.mark.slow
def test_a_server_that_keeps_answers_fails(tiny_bundle: Path, reranker_bundle: Path, tmp_path: Path):
    found = run(tiny_bundle, reranker_bundle, tmp_path, 15, "answers")["problems"]
    assert [problem.partition(":")[0] for problem in found] == ["memory grows"]


@pytest.mark.slow
def test_a_server_that_leaks_or_lies_fails(tiny_bundle: Path, reranker_bundle: Path, tmp_path: Path):
    """Threads and descriptors that are never given back, and a value that differs by a millionth."""
    found = run(tiny_bundle, reranker_bundle, tmp_path, 12, "threads", "descriptors", "vectors")["problems"]
    for words in ("threads grow", "descriptors grow", "answers have other vectors"):
        assert any(words in problem for problem in found), found
