"""Parts of texts, and words in random order, which the teacher reads too, whatever their language.

Our texts have few subjects. What the teacher makes of a part of one, or of words that no text of
ours has beside each other, shows how words are put together beyond those subjects; without what
its language adds (`offsets`), it is a target like that of an English text.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

from batches import SHARES
from sources import MAIN
from vocabulary import script

LISTS = ("cldr-keywords", "places-words", "unihan")
"""Sources that have no sentences."""
LENGTHS = (1, 2, 2, 3, 3, 4, 5, 6, 8, 10, 14)
"""Lengths of parts in words, equally frequent."""
UNSPACED = {"ja": (4, 28), "th": (4, 28), "zh": (4, 28)}
"""{language without spaces between words: the shortest and longest part in letters}."""
SHORTEST = 8
SALAD = (2, 6)
COMMON = 0.7
"""A script is drawn in proportion to its number of words to this power."""


def of_texts(path: Path, number: int) -> dict[str, list[str]]:
    """By language, at most so many parts of translations, sources in their shares."""
    texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    with path.open(encoding="utf-8") as file:
        for line in file:
            source, language, _, other = json.loads(line)
            if language in MAIN and source not in LISTS and len(other) >= SHORTEST:
                texts[language][source].append(other)
    return {language: _parts(language, texts[language], number) for language in sorted(texts)}


def _parts(language: str, texts: dict[str, list[str]], number: int) -> list[str]:
    rng = random.Random(f"spans {language}")
    sources = sorted(texts)
    found: set[str] = set()
    for _ in range(4 * number):
        if len(found) < number:
            (source,) = rng.choices(sources, [SHARES[name] for name in sources])
            found.add(_part(rng, language, rng.choice(texts[source])))
    return sorted(part for part in found if len(part) > 2)


def _part(rng: random.Random, language: str, text: str) -> str:
    if language in UNSPACED:
        length = rng.randint(*UNSPACED[language])
        start = rng.randrange(max(1, len(text) - length + 1))
        return text[start : start + length].strip()
    words, length = text.split(), rng.choice(LENGTHS)
    start = rng.randrange(max(1, len(words) - length + 1))
    return " ".join(words[start : start + length]).strip(" ,.;:()\"'")


def of_words(words: list[str], number: int) -> list[tuple[str, str]]:
    """(script, text) of texts of random words of one script."""
    rng = random.Random("salads")
    found: dict[str, list[str]] = defaultdict(list)
    for word in words:
        found[script(word) or ""].append(word)
    scripts = sorted(found)
    often = [len(found[name]) ** COMMON for name in scripts]
    drawn = rng.choices(scripts, often, k=number)
    return [(name, " ".join(rng.choice(found[name]) for _ in range(rng.randint(*SALAD)))) for name in drawn]
