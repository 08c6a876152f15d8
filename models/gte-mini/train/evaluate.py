"""Measures the quality of the shipped model with the runtime, on a built bundle.

    python evaluate.py WORK BUNDLE [--variant cpu-int8] [--part dev] [--no-search]

`dev` is for choosing models. `test` adds the Universal Declaration of Human Rights, which nothing
was chosen on, and should be looked at once.

All texts are read in Unicode's NFC, in which people type: the Vietnamese Declaration of the package
has its signs apart from the letters. A row "as in the package" follows where a set has such texts.
"""

from __future__ import annotations

import argparse
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from everyday import SENTENCES
from heldout import CARD
from numpy.typing import NDArray
from prose import SENTENCES as PROSE
from search import ndcg_table
from sources import articles

from gte_runtime import Embedder

DECLARATION = {
    "zh": "cmn_hans", "de": "deu_1996", "fr": "fra", "es": "spa", "pt": "por_BR", "it": "ita", "ru": "rus",
    "ja": "jpn", "ko": "kor", "ar": "arb", "hi": "hin", "tr": "tur", "vi": "vie", "pl": "pol", "nl": "nld",
    "id": "ind", "th": "tha", "uk": "ukr", "cs": "ces",
}  # fmt: skip
SHORT = 64
GROUP = 30
PARTNER = {0: 2, 2: 0, 1: 3, 3: 1}


Both = tuple[float, float]
Vectors = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to unit vectors, [texts, H]."""


def composed(texts: Sequence[str]) -> list[str]:
    return [unicodedata.normalize("NFC", text) for text in texts]


class Reader:
    """Vectors of texts in NFC, or as they are; `differed` tells whether the two were ever not the same."""

    def __init__(self, gte: Embedder, nfc: bool) -> None:
        self._gte, self._nfc, self.differed = gte, nfc, False

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.differed |= composed(texts) != list(texts)
        dense = self._gte.encode(composed(texts) if self._nfc else texts, sparse=False).dense
        assert dense is not None
        return dense


def top1(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> Both:
    """Top-1 accuracy in percent, at full length and at SHORT: query n finds document n."""
    found = []
    for dim in (None, SHORT):
        a, b = (
            rows[:, :dim] / np.linalg.norm(rows[:, :dim], axis=1, keepdims=True)
            for rows in (queries, documents)
        )
        found.append(float(((a @ b.T).argmax(1) == np.arange(len(a))).mean() * 100))
    return found[0], found[1]


def declaration(vectors: Vectors, root: Path) -> dict[str, Both]:
    english = vectors(articles(root, "eng"))
    return {language: top1(vectors(articles(root, code)), english) for language, code in DECLARATION.items()}


def terms(vectors: Vectors, held: dict[str, list[list[str]]]) -> dict[str, Both]:
    return {
        language: top1(vectors([b for _, b in held[language]]), vectors([a for a, _ in held[language]]))
        for language in DECLARATION
    }


def paragraphs(vectors: Vectors, held: dict[str, list[list[str]]]) -> dict[str, Both]:
    """Held-out paragraphs: each finds the English one among GROUP neighbouring ones."""
    out = {}
    for language in DECLARATION:
        pairs = held.get(language, [])
        if len(pairs) >= GROUP:
            english, other = (vectors([pair[side] for pair in pairs]) for side in (0, 1))
            starts = range(0, len(pairs) - GROUP + 1, GROUP)
            found = np.mean([top1(other[n : n + GROUP], english[n : n + GROUP]) for n in starts], axis=0)
            out[language] = (float(found[0]), float(found[1]))
    return out


def prose(vectors: Vectors) -> dict[str, Both]:
    english = vectors(PROSE["en"])
    return {language: top1(vectors(PROSE[language]), english) for language in DECLARATION}


def card(vectors: Vectors) -> int:
    """The number of the model card's four texts whose translation is the nearest of the others."""
    rows = vectors(CARD)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -1)
    return sum(PARTNER[n] == int(best) for n, best in enumerate(similarity.argmax(1)))


def everyday(vectors: Vectors) -> dict[str, Both]:
    english = vectors(SENTENCES["en"])
    return {language: top1(vectors(SENTENCES[language]), english) for language in ("de", "es", "zh", "ru")}


def row(name: str, found: dict[str, Both]) -> Iterator[str]:
    """Two lines of the README's table, and the numbers of all languages in a comment."""
    mean, short = np.mean(list(found.values()), axis=0)
    worst = min(found, key=lambda language: found[language][0])
    kept = f"{short:.1f} %, {100 * short / mean:.1f} % kept"
    yield f"| {name} | {mean:.1f} % | {worst} {found[worst][0]:.1f} % | {kept} |"
    yield (
        f"<!-- {name}: "
        + " ".join(f"{language} {value:.1f}" for language, (value, _) in found.items())
        + " -->"
    )


def rows(gte: Embedder, name: str, measure: Callable[[Vectors], dict[str, Both]]) -> Iterator[str]:
    """The row of a set, and a second one if its texts are not all in NFC."""
    reader = Reader(gte, nfc=True)
    yield from row(name, measure(reader))
    if reader.differed:
        yield from row(f"{name}, as in the package", measure(Reader(gte, nfc=False)))


def table(gte: Embedder, work: Path, part: str, search: bool) -> Iterator[str]:
    held: dict[str, Any] = json.loads((work / "heldout.json").read_text(encoding="utf-8"))[part]
    yield from (
        f"| {part}, {gte.info['variant']} | top-1, mean | worst | at {SHORT} numbers |",
        "|---|---|---|---|",
    )
    if part == "test":
        yield from rows(
            gte, "Declaration of Human Rights, 30 articles", partial(declaration, root=work / "raw")
        )
    yield from rows(gte, "everyday sentences, 8", everyday)
    yield f"| the model card's four texts | {card(Reader(gte, nfc=True))} of 4 | | |"
    yield from rows(gte, f"CLDR terms, {len(held['terms']['de'])}", partial(terms, held=held["terms"]))
    for name, key in (("help paragraphs", "paragraphs"), ("messages of programs", "messages")):
        yield from rows(gte, f"{name}, {GROUP}", partial(paragraphs, held=held[key]))
    if part == "dev":
        yield from rows(gte, f"prose, {len(PROSE['en'])}", prose)
        yield from rows(gte, f"scripture, {GROUP} of a book", partial(paragraphs, held=held["scripture"]))
    if search:
        yield from ("", *ndcg_table(gte, held["pages"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="the folder that run.py worked in")
    parser.add_argument("bundle", type=Path, help="a built bundle")
    parser.add_argument("--variant", default="cpu-fp32")
    parser.add_argument("--part", choices=["test", "dev"], default="test")
    parser.add_argument("--no-search", dest="search", action="store_false")
    options = parser.parse_args()
    with Embedder.open(options.bundle, variant=options.variant) as gte:
        for line in table(gte, options.work, options.part, options.search):
            print(line, flush=True)


if __name__ == "__main__":
    main()
