"""What is measured: texts and token ids of every work, and the batchings from which a padded peer may choose.

Every text is real and multilingual, and cut so that it has exactly the wanted number of tokens; so a fixed
shape is the same work for a peer that takes ids and for one that takes texts. Pure but for the tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

FIXED = {"1x16": (1, 16), "1x128": (1, 128), "8x128": (8, 128), "1x512": (1, 512), "1x2048": (1, 2048)}
MIXES = ("short", "queries", "lognormal")
LOGNORMAL_TEXTS, LOGNORMAL_MEDIAN, LOGNORMAL_SIGMA, LONGEST = 200, 40, 1.4, 2000
"""Quantiles of the distribution, shuffled: the longest text is 2000 tokens in every run."""
REPEATS = {
    "1x16": 4.0,
    "1x128": 2.0,
    "8x128": 1.0,
    "1x512": 1.0,
    "1x2048": 0.6,
    "short": 1.0,
    "queries": 1.0,
    "lognormal": 0.3,
}
"""Timed repeats of a work, as a multiple of --repeats."""
PROBE_AT, PROBE_SIZE = (0.1, 0.3, 0.5, 0.7, 0.8), 8
"""Texts of similar length at these quantiles represent the long mix when batchings are compared."""

GEMM_FLOP, ATTENTION_FLOP = 226.5e6, 36_864
"""FLOP per token, and per pair of tokens of the same text."""


@dataclass(frozen=True, slots=True)
class Work:
    """Texts, and their token ids."""

    texts: list[str]
    ids: list[list[int]]

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.ids]

    @property
    def flop(self) -> float:
        """Operations without padding."""
        return sum(n * (GEMM_FLOP + ATTENTION_FLOP * n) for n in self.lengths)

    def part(self, rows: list[int]) -> Work:
        return Work([self.texts[row] for row in rows], [self.ids[row] for row in rows])


def make_works(texts: Path, tokenizer: Path) -> dict[str, Work]:
    """Every work, the probe of the long mix, and calibration texts that are in no work."""
    composer = Composer(texts, tokenizer)
    rng = np.random.default_rng(3)
    z = [NormalDist().inv_cdf((i + 0.5) / LOGNORMAL_TEXTS) for i in range(LOGNORMAL_TEXTS)]
    lognormal = rng.permutation(
        np.clip(LOGNORMAL_MEDIAN * np.exp(LOGNORMAL_SIGMA * np.array(z)), 3, LONGEST).astype(int)
    )
    lengths = {name: [length] * count for name, (count, length) in FIXED.items()} | {
        "short": rng.integers(6, 21, 64).tolist(),
        "queries": [*rng.integers(8, 25, 8).tolist(), *rng.integers(128, 385, 4).tolist()],
        "lognormal": lognormal.tolist(),
        "calibration": rng.integers(16, 257, 24).tolist(),
    }
    works = {name: composer.work(wanted) for name, wanted in lengths.items()}
    order = np.argsort(works["lognormal"].lengths, kind="stable").tolist()
    probe = [row for at in PROBE_AT for row in order[int(at * len(order)) :][:PROBE_SIZE]]
    return works | {"lognormal-probe": works["lognormal"].part(probe)}


class Composer:
    """Cuts texts of an exact number of tokens out of the paragraphs, from places drawn at random."""

    def __init__(self, texts: Path, tokenizer: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        lines = texts.read_text("utf-8").splitlines()
        self._paragraphs = [line for line in lines if line and not line.startswith("# ")]
        self._rng = np.random.default_rng(2)

    def work(self, lengths: list[int]) -> Work:
        found = [self._text(length) for length in lengths]
        return Work([text for text, _ in found], [ids for _, ids in found])

    def _text(self, length: int) -> tuple[str, list[int]]:
        for _ in range(200):
            encoding = self._enough(length)
            # One token fewer or more may come out where a word is cut, so a few places are tried.
            for last in range(length - 3, min(length + 2, len(encoding.ids) - 2)):
                text = self._joined[: encoding.offsets[last + 1][1]].rstrip()
                ids = self._tokenizer.encode(text).ids
                if len(ids) == length:
                    return text, ids
        raise RuntimeError(f"no text of exactly {length} tokens was found")

    def _enough(self, length: int) -> Any:
        start = int(self._rng.integers(len(self._paragraphs)))
        self._joined = ""
        while True:
            self._joined = f"{self._joined} {self._paragraphs[start % len(self._paragraphs)]}".lstrip()
            start += 1
            encoding = self._tokenizer.encode(self._joined)
            if len(encoding.ids) > length + 3:
                return encoding


Groups = list[list[int]]


def batchings(lengths: list[int]) -> dict[str, Groups]:
    """Ways to run texts in padded batches, without those that pad to more than 2.5 times the tokens: they
    cannot be the fastest."""
    order = np.argsort(lengths, kind="stable").tolist()
    ways: dict[str, Groups] = {
        "one by one": [[row] for row in order],
        "all in one": [list(range(len(lengths)))],
    }
    for size in (2, 4, 8, 16, 32):
        ways[f"sorted, by {size}"] = [order[at : at + size] for at in range(0, len(order), size)]
    for budget in (256, 512, 1024, 2048, 4096):
        ways[f"sorted, {budget} tokens"] = _by_budget(order, lengths, budget)
    most = 2.5 * sum(lengths)
    kept = {
        name: groups
        for name, groups in ways.items()
        if sum(len(g) * max(lengths[row] for row in g) for g in groups) <= most
    }
    different: dict[str, Groups] = {}
    for name, groups in kept.items():
        if groups not in different.values():
            different[name] = groups
    return different


def plan(name: str, lengths: list[int]) -> Groups:
    """The batching of this name for these lengths."""
    return batchings(lengths).get(name) or [[row] for row in range(len(lengths))]


def _by_budget(order: list[int], lengths: list[int], budget: int) -> Groups:
    groups: Groups = []
    for row in order:
        if groups and (len(groups[-1]) + 1) * lengths[row] <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
