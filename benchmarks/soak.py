"""Compares random batches with the same texts alone, bit for bit, and records memory meanwhile.

    python benchmarks/soak.py BUNDLE [--variant cpu-int8] [--batches 1000] [--seconds 600] [--seed 0]

Texts of 3 to 8192 tokens, log-uniform; batches of 1 to 64 of them, drawn with repetition and in any order,
no larger than --tokens. Every row must equal the row of the text alone. Prints JSON: batches, differing rows,
and resident memory between the batches, by quarter, and its peak.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from gte_runtime import Embedder
from gte_runtime.results import Embeddings
from gte_runtime.tokenization import Tokens

POOL = 300
"""Different texts. Each of them runs alone once."""
LONGEST = 8192


def main() -> None:
    a = parse()
    rng = np.random.default_rng(a.seed)
    with Embedder.open(a.bundle, variant=a.variant) as gte:
        lengths = np.exp(rng.uniform(np.log(3), np.log(min(a.longest, gte.max_length) + 1), a.pool)).astype(
            int
        )
        vocabulary = gte.manifest.architecture.vocab_size
        pool = [Tokens(np.r_[0, rng.integers(5, vocabulary, n - 2), 2], False) for n in lengths]
        alone = [run(gte, [text]) for text in pool]
        started, memory, differing, done, tokens = time.monotonic(), [resident()], 0, 0, 0
        while done < a.batches and time.monotonic() - started < a.seconds:
            chosen = draw(rng, lengths, a.tokens)
            found = run(gte, [pool[i] for i in chosen])
            differing += sum(not same(found, row, alone[i]) for row, i in enumerate(chosen))
            done, tokens = done + 1, tokens + int(lengths[chosen].sum())
            memory.append(resident())
        info = gte.info
    seconds = time.monotonic() - started
    quarters = np.array_split(memory[1:], 4)
    report = {
        **info,
        "seed": a.seed,
        "batches": done,
        "tokens": tokens,
        "longest": int(lengths.max()),
        "seconds": round(seconds),
        "differing_rows": differing,
        "rss_mb": {
            "start": memory[0],
            "median_by_quarter": [round(float(np.median(q)), 1) for q in quarters if len(q)],
            "largest_by_quarter": [round(float(q.max()), 1) for q in quarters if len(q)],
            "peak_ever": peak(),
        },
    }
    print(json.dumps(report, indent=1))
    sys.exit(bool(differing))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="cpu-int8")
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--tokens", type=int, default=20_000, help="of a batch, at most")
    parser.add_argument("--longest", type=int, default=LONGEST, help="tokens of a text, at most")
    parser.add_argument("--pool", type=int, default=POOL, help="different texts")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def draw(rng: np.random.Generator, lengths: np.ndarray, most: int) -> list[int]:
    """Texts of one batch: one of any length, and others up to `most` tokens in all."""
    chosen = rng.integers(0, len(lengths), rng.integers(1, 65)).tolist()
    total = np.cumsum(lengths[chosen])
    return chosen[: max(1, int(np.searchsorted(total, most, side="right")))]


def run(gte: Embedder, texts: list[Tokens]) -> Embeddings:
    return gte.steps.collect(texts, gte.steps.run(texts), sparse=gte.manifest.sparse)


def same(found: Embeddings, row: int, alone: Embeddings) -> bool:
    if not np.array_equal(found.dense[row], alone.dense[0]):
        return False
    if found.sparse is None:
        return True
    here, there = found.sparse[row], alone.sparse[0]
    return np.array_equal(here.indices, there.indices) and np.array_equal(here.values, there.values)


def resident() -> float:
    """MB of this process in memory now, mapped weights included."""
    return status("VmRSS")


def peak() -> float:
    return status("VmHWM")


def status(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return round(int(line.split()[1]) / 1024, 1)


if __name__ == "__main__":
    main()
