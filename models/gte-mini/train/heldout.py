"""What is never trained on, decided by hashes and so the same in every run."""

from __future__ import annotations

import hashlib
import re

CARD = ("what is the capital of China?", "how to implement quick sort in python?", "北京", "快排算法介绍")
"""北京 and 快排 stay out as texts of their own; the characters occur elsewhere."""
TERMS = 500
QUOTE = 7
SHARES = {0: "test", 1: "dev"}


def _bucket(text: str, buckets: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") % buckets


def page(name: str) -> str:
    """test, dev or train: the part a documentation page belongs to, in every language."""
    return SHARES.get(_bucket(name, 20), "train")


def terms(candidates: set[str]) -> tuple[list[str], list[str]]:
    """(test, dev) terms out of CLDR's English names: the first by hash."""
    ordered = sorted(candidates, key=lambda text: hashlib.sha256(text.encode()).digest())
    return ordered[:TERMS], ordered[TERMS : TERMS + 200]


def runs(text: str) -> set[tuple[str, ...]]:
    """Every QUOTE words in a row: texts that share one quote the same source."""
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[n : n + QUOTE]) for n in range(len(words) - QUOTE + 1)}
