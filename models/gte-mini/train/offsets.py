"""The directions in which the teacher's vectors tell one language from another.

A translation's vector is its original's plus something of the language. What is common to many
pairs of a language is that something; without these directions a word that no text of ours has
still lies near its translations, whatever its language.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sources import MAIN
from teacher import Teacher, embed
from tokenizers import Tokenizer

SOURCES = ("chromium", "firefox", "home")
"""In every language, and sentences."""
SHORTEST, LONGEST = 40, 160


def samples(path: Path, number: int) -> dict[str, list[tuple[str, str]]]:
    """By language, so many pairs of sentences."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for line in file:
            source, language, english, other = json.loads(line)
            wanted = source in SOURCES and language in MAIN and SHORTEST < len(english) < LONGEST
            if wanted and len(found[language]) < number:
                found[language].append((english, other))
    return {language: found[language] for language in sorted(found)}


def of_languages(
    teacher: Teacher, tokenizer: Tokenizer, pairs: dict[str, list[tuple[str, str]]]
) -> NDArray[np.float32]:
    """[languages, 384] what a language adds to English, languages in the order of `pairs`."""
    offsets = []
    for found in pairs.values():
        english, other = (
            embed(teacher, tokenizer, [pair[side] for pair in found]).mean(0) for side in (0, 1)
        )
        offsets.append(other - english)
    return np.stack(offsets)


def directions(offsets: NDArray[np.float32]) -> NDArray[np.float32]:
    """[languages, 384], orthonormal: all that languages add lies in these."""
    return np.linalg.svd(offsets, full_matrices=False)[2]
