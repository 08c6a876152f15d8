"""All pairs and pages in three files: what to train on, and what to measure with.

train.jsonl     [source, language, english, other]
pages.jsonl     ["title", language, title, text]
heldout.json    terms and pages by part (test, dev) and language
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import heldout
import scripture
from sources import (
    Pair,
    Paragraph,
    articles,
    chromium,
    cldr,
    firefox,
    help_pages,
    home,
    iso_codes,
    libreoffice,
    places,
    unihan,
)

SEED = 0
LONGEST = 600
MESSAGES = ("chromium", "firefox", "home")
VOWELS = re.compile("[\u064b-\u0652\u0640]")
"""Arabic vowel signs, and the sign that stretches a word (tatweel)."""
MESSAGE = 100
"""Messages of at least this many letters are explanations of some sentences. One in twenty is held out."""


def _key(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .:")


def _useful(pair: Pair) -> bool:
    """Whether to train on a pair: both sides have letters, are translated, and are of similar length."""
    a, b = pair.english, pair.other
    if not (a and b) or (_key(a) == _key(b) and (len(a) > 20 or pair.source in MESSAGES)):
        return False
    return (
        1 < len(a) <= LONGEST
        and len(b) <= LONGEST
        and any(c.isalpha() for c in b)
        and len(a) < 10 * len(b) + 40
    )


def _as_written(pair: Pair) -> Pair:
    """Three of five Arabic texts, always the same, without vowel signs: people seldom write them."""
    bare = pair.language == "ar" and zlib.crc32(pair.other.encode()) % 5 < 3
    return pair._replace(other=VOWELS.sub("", pair.other)) if bare else pair


def _keywords(pair: Pair) -> list[str]:
    """Keywords include the name of their sign or place, so those of a held-out name are held out, too."""
    return (
        [_key(text) for text in pair.english.split(", ")]
        if pair.source in ("cldr-keywords", "places-words")
        else []
    )


def _held_message(pair: Pair) -> str:
    """train, test or dev, decided by the English text, so that it is the same in every language."""
    long = pair.source in MESSAGES and len(pair.english) >= MESSAGE
    return heldout.page(pair.english) if long else "train"


def _pages(root: Path, language: str) -> dict[str, dict[str, Paragraph]]:
    pages: dict[str, dict[str, Paragraph]] = defaultdict(dict)
    for paragraph in help_pages(root, language):
        pages[paragraph.page][paragraph.number] = paragraph
    return pages


def _of_pages(
    english: dict[str, dict[str, Paragraph]], other: dict[str, dict[str, Paragraph]], language: str
) -> Iterator[Pair]:
    for page, paragraphs in other.items():
        if heldout.page(page) == "train":
            for number, paragraph in paragraphs.items():
                original = english.get(page, {}).get(number)
                if original and original.text != paragraph.text:
                    yield Pair("help", language, original.text, paragraph.text)


def _title_and_text(pages: dict[str, dict[str, Paragraph]], part: str) -> Iterator[tuple[str, str, str]]:
    """(page, title, text without the title) of the pages of a part."""
    for page, paragraphs in pages.items():
        title = next((p.text for p in paragraphs.values() if p.tag == "h1"), None)
        text = " ".join(p.text for p in paragraphs.values() if p.tag != "h1")
        if heldout.page(page) == part and title and len(text) > 80:
            yield page, title, text


def _held_terms(pairs: Iterable[Pair], languages: int) -> tuple[list[str], list[str]]:
    names: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        if pair.source == "cldr-terms":
            names[pair.english].add(pair.language)
    return heldout.terms({name for name, found in names.items() if len(found) >= languages - 2})


def make(root: Path, out: Path, languages: Sequence[str]) -> None:
    """Read every source and write the files."""
    english = _pages(root, "en")
    pairs: set[Pair] = set(unihan(root))
    measured: dict[str, Any] = {
        part: {"pages": {"en": list(_title_and_text(english, part))}, "terms": {}} for part in ("test", "dev")
    }
    same: list[Pair] = [
        Pair("title", "en", title, text) for _, title, text in _title_and_text(english, "train")
    ]
    for language in languages:
        for source in (libreoffice, iso_codes, cldr, chromium, firefox, home, places):
            pairs.update(source(root, language))
        pairs.update(Pair("scripture", language, a, b) for a, b in scripture.pairs(root, language))
        pages = _pages(root, language)
        pairs.update(_of_pages(english, pages, language))
        same += [Pair("title", language, title, text) for _, title, text in _title_and_text(pages, "train")]
        for part in ("test", "dev"):
            measured[part]["pages"][language] = list(_title_and_text(pages, part))
            measured[part].setdefault("paragraphs", {})[language] = [
                (english[page][number].text, p.text)
                for page, found in pages.items()
                if heldout.page(page) == part
                for number, p in found.items()
                if number in english.get(page, {})
                and 50 < len(english[page][number].text) < 250
                and english[page][number].text != p.text
            ][:300]
    test, dev = _held_terms(pairs, len(languages))
    for part, terms in (("test", test), ("dev", dev)):
        names = {
            (pair.language, pair.english): pair.other for pair in sorted(pairs) if pair.source == "cldr-terms"
        }
        measured[part]["terms"] = {
            language: [(term, names[language, term]) for term in terms if (language, term) in names]
            for language in languages
        }
    messages: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for pair in pairs:
        if _held_message(pair) != "train" and _useful(pair):
            messages[_held_message(pair), pair.language].add((pair.english, pair.other))
    for part in ("test", "dev"):
        measured[part]["messages"] = {language: sorted(messages[part, language]) for language in languages}
    measured["dev"]["scripture"] = scripture.measured(root, languages)
    never = {_key(text) for text in (*test, *dev, *heldout.CARD)}
    for part in measured.values():
        for kind in ("paragraphs", "messages"):
            never |= {_key(a) for found in part[kind].values() for a, _ in found}
    declared = set().union(*(heldout.runs(article) for article in articles(root, "eng")))
    quoting = {text for text in {pair.english for pair in pairs} if declared & heldout.runs(text)}
    kept = [
        _as_written(pair)
        for pair in sorted(pairs)
        if _useful(pair)
        and pair.english not in quoting
        and not never & {_key(pair.english), _key(pair.other), *_keywords(pair)}
    ]
    for name, found in (("train.jsonl", kept), ("pages.jsonl", same)):
        random.Random(SEED).shuffle(found)
        with (out / name).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(list(pair), ensure_ascii=False) + "\n" for pair in found)
    (out / "heldout.json").write_text(json.dumps(measured, ensure_ascii=False), encoding="utf-8")
