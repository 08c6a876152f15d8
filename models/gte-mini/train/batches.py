"""Makes training batches: languages and sources in fixed shares, some pairs joined, some put as questions."""

from __future__ import annotations

import json
import random
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from device import MULTIPLE, ON_GPU
from numpy.typing import NDArray
from sources import MAIN, QUESTIONS
from tokenizers import Tokenizer
from torch import Tensor

SHARES = {
    "help": 0.2, "libreoffice": 0.06, "chromium": 0.12, "firefox": 0.12, "home": 0.1, "cldr-terms": 0.13,
    "cldr-keywords": 0.08, "cldr": 0.03, "iso-codes": 0.03, "unihan": 0.02, "places": 0.08,
    "places-words": 0.04, "scripture": 0.35,
}  # fmt: skip
SECONDARY = 0.35
"""How often a language that is not one of MAIN is drawn, relative to one that is."""
HARD = dict.fromkeys(("cs", "hi", "id", "ja", "pl", "th", "tr", "uk", "vi"), 1.6)
"""The same for languages in which earlier models were worst, or for which there is no prose to train on."""
JOINED = 0.3
"""The share of pairs that are two or three pairs of one source and language joined, to get longer texts."""
CAPITALS = 0.15
"""The share of pairs whose English is in lower case, as queries often are."""
ASKED = 0.1
"""The share of sides that are put as a question about their text, so that question words get low weights."""
TOKENS = 96
LETTERS = 800
"""Characters of a page that are enough for its first TOKENS tokens in any language."""
PAGES = 500
"""The largest number of pages of a language."""
FREQUENT, RARE = 3.0, 8.0
"""-log of the frequency of a piece: its rarity is 0 at FREQUENT, and 1 at FREQUENT + RARE."""
MOST = 4
"""The largest number of texts that are joined."""
GROUPS = 6 if ON_GPU else 12
"""Parts of a batch, each padded to its own longest text; fewer on a GPU, where padding costs less."""

Ids = NDArray[np.int32]


class Texts(NamedTuple):
    """Token ids of many texts, without special tokens, concatenated."""

    flat: Ids
    starts: NDArray[np.int64]

    def __getitem__(self, number: int) -> Ids:  # type: ignore[override]
        return self.flat[self.starts[number] : self.starts[number + 1]]


class Batch(NamedTuple):
    """The ids of the English and the other sides, without special tokens, and facts about each pair.

    Args:
        texts: [pairs, MOST] the numbers of its English texts, -1 where there are fewer
        first: [2, pairs] for each side the first pair that has the same ids
        languages: [pairs] the number of the other side's language
    """

    english: list[Ids]
    other: list[Ids]
    texts: NDArray[np.int64]
    first: NDArray[np.int64]
    languages: NDArray[np.int64]


def tokenized(tokenizer: Tokenizer, texts: list[str]) -> Texts:
    tokenizer.no_padding()
    tokenizer.enable_truncation(8 * TOKENS)
    parts: list[Ids] = []
    for start in range(0, len(texts), 50_000):
        found = tokenizer.encode_batch_fast(texts[start : start + 50_000], add_special_tokens=False)
        parts += [np.array(encoding.ids, np.int32) for encoding in found]
    starts = np.cumsum([0, *(len(part) for part in parts)])
    return Texts(np.concatenate(parts), starts)


def padded(rows: list[Ids], limit: int = TOKENS) -> NDArray[np.int64]:
    """<s> ids </s>, padded with 1."""
    longest = min(limit, max(len(row) for row in rows) + 2)
    out = np.ones((len(rows), -(-longest // MULTIPLE) * MULTIPLE), np.int64)
    for line, row in zip(out, rows, strict=True):
        kept = row[: longest - 2]
        line[0], line[1 : len(kept) + 1], line[len(kept) + 1] = 0, kept, 2
    return out


class Groups(NamedTuple):
    """Rows grouped by similar length and padded by group, and the original position of each row."""

    parts: tuple[NDArray[np.int64], ...]
    back: NDArray[np.int64]


def grouped(rows: list[Ids]) -> Groups:
    order = np.argsort([len(row) for row in rows], kind="stable")
    parts = (padded([rows[n] for n in part]) for part in np.array_split(order, GROUPS) if len(part))
    return Groups(tuple(parts), np.argsort(order))


class Batches:
    """Batches by number: the same number gives the same batch, so that training can resume anywhere.

    Args:
        order: the English texts that have targets
        words: more texts with targets, one word each
        spans: more, some words each
        cache: a file to keep the translations' tokens in, some minutes' work
    """

    def __init__(
        self, path: Path, tokenizer: Path, order: list[str], words: list[str], spans: list[str], cache: Path
    ) -> None:
        made = Tokenizer.from_file(str(tokenizer))
        self._pieces = [made.id_to_token(n) for n in range(made.get_vocab_size())]
        known = {text: n for n, text in enumerate(order)}
        pairs: dict[str, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        others: list[str] = []
        with path.open(encoding="utf-8") as file:
            for line in file:
                source, language, english, other = json.loads(line)
                if english in known:
                    if source != "cldr-keywords" or "skin tone" not in english:  # five of each hand
                        pairs[language][source].append((known[english], len(others)))
                    others.append(other)
        # Arrays, because reading a list changes reference counts, so forked workers would copy its memory.
        self._found = {
            language: {source: np.array(rows) for source, rows in found.items()}
            for language, found in pairs.items()
        }
        self._words, self._alone = tokenized(made, [*words, *spans]), len(words)
        self._english, self._lower = tokenized(made, order), tokenized(made, [text.lower() for text in order])
        if not cache.exists():
            np.savez(cache, **tokenized(made, others)._asdict())
        with np.load(cache) as saved:
            self._others = Texts(saved["flat"], saved["starts"])
        self._frames = {
            language: [
                [
                    np.array(made.encode(part, add_special_tokens=False).ids, np.int32)
                    for part in frame.split("{}")
                ]
                for frame in frames
            ]
            for language, frames in QUESTIONS.items()
        }
        self._languages = sorted(self._found)
        self._often = [
            HARD.get(language, 1.0) if language in MAIN else SECONDARY for language in self._languages
        ]

    def pairs(self, number: int, size: int) -> Batch:
        rng = random.Random(number)
        left, right, languages = [], [], []
        texts = np.full((size, MOST), -1)
        for row in texts:
            (language,) = rng.choices(self._languages, self._often)
            sources = list(self._found[language])
            (source,) = rng.choices(sources, [SHARES[name] for name in sources])
            count = rng.randint(2, MOST) if rng.random() < JOINED else 1
            found = [rng.choice(self._found[language][source]) for _ in range(count)]
            english = self._lower if rng.random() < CAPITALS else self._english
            left.append(self._asked(rng, "en", np.concatenate([english[n] for n, _ in found])))
            right.append(self._asked(rng, language, np.concatenate([self._others[n] for _, n in found])))
            row[:count] = [n for n, _ in found]
            languages.append(self._languages.index(language))
        return Batch(left, right, texts, np.stack([_first(left), _first(right)]), np.array(languages))

    def words(self, number: int, size: int, alone: bool = False) -> tuple[list[Ids], NDArray[np.int64]]:
        """The ids and the numbers of words and spans, or of words only."""
        rng = random.Random(f"words {number}")
        chosen = [rng.randrange(self._alone if alone else len(self._words.starts) - 1) for _ in range(size)]
        return [self._words[n] for n in chosen], np.array(chosen)

    def rarity(self) -> Tensor:
        """The rarity of each piece, [pieces]: a product of two grows as BM25's IDF does. Punctuation has 0.

        A piece counts where it is most frequent, since what is a function word in one language seldom
        tells much in another.
        """
        number = np.zeros(len(self._others.starts) - 1, np.int64)
        for n, language in enumerate(self._languages):
            for found in self._found[language].values():
                number[found[:, 1]] = n
        places = np.repeat(number, np.diff(self._others.starts)) * len(self._pieces) + self._others.flat
        counts = np.bincount(places, minlength=len(self._languages) * len(self._pieces)).reshape(
            -1, len(self._pieces)
        )
        counts = np.vstack([counts, np.bincount(self._english.flat, minlength=len(self._pieces))])
        shares = (counts / counts.sum(1, keepdims=True)).max(0)
        told = np.sqrt(np.maximum(-np.log(np.maximum(shares, 1e-7)) - FREQUENT, 0) / RARE)
        for n, piece in enumerate(self._pieces):
            if all(unicodedata.category(letter)[0] in "PZ" for letter in piece.removeprefix("▁")):
                told[n] = 0
        return torch.from_numpy(told).float()

    def _asked(self, rng: random.Random, language: str, ids: Ids) -> Ids:
        if rng.random() >= ASKED or len(ids) > 16:
            return ids
        before, after = rng.choice(self._frames[language])
        return np.concatenate([before, ids, after])


class Pages:
    """Titles of pages and their texts, by number like the batches."""

    def __init__(self, path: Path, tokenizer: Path) -> None:
        made = Tokenizer.from_file(str(tokenizer))
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        with path.open(encoding="utf-8") as file:
            for line in file:
                _, language, title, text = json.loads(line)
                if len(found[language]) < PAGES:
                    found[language].append((title, text[:LETTERS]))
        self._texts = {
            language: [tokenized(made, [pair[side] for pair in pairs]) for side in (0, 1)]
            for language, pairs in found.items()
        }

    def titles(self, number: int, size: int, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids of titles and of texts, all of one language and without a title twice."""
        rng = random.Random(f"titles {number}")
        titles, texts = self._texts[rng.choice(sorted(self._texts))]
        rows = {
            titles[n].tobytes(): (titles[n], texts[n])
            for n in rng.sample(range(len(titles.starts) - 1), size)
        }
        left, right = zip(*rows.values(), strict=True)
        return padded(list(left), limit), padded(list(right), limit)


def _first(rows: list[Ids]) -> NDArray[np.int64]:
    found: dict[bytes, int] = {}
    return np.array([found.setdefault(row.tobytes(), n) for n, row in enumerate(rows)])
