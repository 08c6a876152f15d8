"""Texts that are never trained on. Hashes decide, so they are the same in every run."""

from __future__ import annotations

import hashlib
import re

CARD = ("what is the capital of China?", "how to implement quick sort in python?", "北京", "快排算法介绍")
"""No text that consists of 北京 or 快排 is trained on; the characters occur in others."""
TERMS = 500
QUOTE = 7
SHARES = {0: "test", 1: "dev"}


def _bucket(text: str, buckets: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") % buckets


def page(name: str) -> str:
    """The part of a documentation page: test, dev or train, the same in every language."""
    return SHARES.get(_bucket(name, 20), "train")


def terms(candidates: set[str]) -> tuple[list[str], list[str]]:
    """(test, dev) terms out of CLDR's English names: the first by hash."""
    ordered = sorted(candidates, key=lambda text: hashlib.sha256(text.encode()).digest())
    return ordered[:TERMS], ordered[TERMS : TERMS + 200]


def runs(text: str) -> set[tuple[str, ...]]:
    """All sequences of QUOTE words: texts that have one in common quote the same source."""
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[n : n + QUOTE]) for n in range(len(words) - QUOTE + 1)}
