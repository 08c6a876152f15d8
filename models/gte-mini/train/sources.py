"""Pairs of an English text and its translation, source by source, from unpacked packages."""

from __future__ import annotations

import bz2
import html
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

LANGUAGES = [
    "ar", "bg", "ca", "cs", "da", "de", "el", "es", "et", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id", "it", "ja",
    "ko", "lt", "nb", "nl", "pl", "pt", "pt-BR", "ro", "ru", "sk", "sl", "sv", "th", "tr", "uk", "vi", "zh", "zh-TW",
]  # fmt: skip
DOMAINS = ("iso_3166-1", "iso_639-2", "iso_639-5", "iso_4217", "iso_15924")
"""Catalogues of iso-codes with names that people use; the long lists are mostly transliterations."""


class Pair(NamedTuple):
    source: str
    language: str
    english: str
    other: str


class Paragraph(NamedTuple):
    page: str
    number: str
    tag: str
    text: str


def plain(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def _catalogue(path: Path) -> Iterator[tuple[str, str]]:
    """(original, translation) of a gettext .mo file, contexts and plural forms left out."""
    data = path.read_bytes()
    count, originals, translations = struct.unpack_from("<3I", data, 8)
    for n in range(count):
        length, at = struct.unpack_from("<2I", data, originals + 8 * n)
        original = data[at : at + length].split(b"\0")[0].decode().split("\4")[-1]
        length, at = struct.unpack_from("<2I", data, translations + 8 * n)
        if original:
            yield original, data[at : at + length].split(b"\0")[0].decode()


def _interface(text: str) -> str:
    """An interface string without access keys, markup and placeholders."""
    text = re.sub(r"\(~?_?[A-Za-z]\)|\(~\w\)|~|%\w+|\$\w+|\$\([^)]*\)", "", plain(text))
    return text.strip(" .:…")


def libreoffice(root: Path, language: str) -> Iterator[Pair]:
    """libreoffice-l10n-*: menus, dialogs, functions (MPL-2.0)."""
    folder = {"pt-BR": "pt_BR", "zh": "zh_CN", "zh-TW": "zh_TW"}.get(language, language)
    for path in sorted((root / "usr/lib/libreoffice/program/resource" / folder / "LC_MESSAGES").glob("*.mo")):
        for original, translation in _catalogue(path):
            yield Pair("libreoffice", language, _interface(original), _interface(translation))


def iso_codes(root: Path, language: str) -> Iterator[Pair]:
    """iso-codes: countries, languages, currencies, scripts (LGPL-2.1+)."""
    folder = {"pt-BR": "pt_BR", "zh": "zh_CN", "zh-TW": "zh_TW"}.get(language, language)
    for domain in DOMAINS:
        path = root / "usr/share/locale" / folder / "LC_MESSAGES" / f"{domain}.mo"
        if path.exists():
            yield from (Pair("iso-codes", language, a.replace(";", ","), b.replace(";", ",")) for a, b in _catalogue(path))


def help_pages(root: Path, language: str) -> Iterator[Paragraph]:
    """libreoffice-help-*: the paragraphs of every page, numbered alike in all languages (MPL-2.0)."""
    folder = root / "usr/share/libreoffice/help" / {"en": "en-US", "zh": "zh-CN"}.get(language, language) / "text"
    for path in sorted(folder.rglob("*.html")):
        page, seen = str(path.relative_to(folder)), set()
        for tag, number, body in re.findall(r'<(p|h\d) id="([^"]+)"[^>]*>(.*?)</\1>', path.read_text(encoding="utf-8"), re.DOTALL):
            text = plain(body)
            if text and number not in seen:
                seen.add(number)
                yield Paragraph(page, number, tag, text)


def cldr(root: Path, language: str) -> Iterator[Pair]:
    """CLDR: names and keywords of emoji, languages, countries, scripts, units, days and months (Unicode-3.0)."""
    locale = {"zh-TW": "zh-Hant", "pt-BR": "pt", "pt": "pt-PT", "nb": "no"}.get(language, language)
    base = root / "npm"
    for package, folder in (("annotations", "annotations"), ("annotations-derived", "annotationsDerived")):
        path = f"cldr-{package}-full/{folder}/{{}}/annotations.json"
        english, other = (_json(base / path.format(x))[folder]["annotations"] for x in ("en", locale))
        for sign in english.keys() & other.keys():
            a, b = english[sign], other[sign]
            if "tts" in a and "tts" in b:
                yield Pair("cldr-terms" if folder == "annotations" else "cldr", language, a["tts"][0], b["tts"][0])
            if "default" in a and "default" in b:
                yield Pair("cldr-keywords", language, ", ".join(a["default"]), ", ".join(b["default"]))
    for part, inside in (("localenames", "localeDisplayNames"), ("units", "units"), ("dates", "dates")):
        for file in sorted((base / f"cldr-{part}-full/main/en").glob("*.json")):
            other_file = base / f"cldr-{part}-full/main/{locale}" / file.name
            if other_file.exists() and file.name not in ("variants.json", "timeZoneNames.json"):
                a, b = (_json(f)["main"][x].get(inside, {}) for f, x in ((file, "en"), (other_file, locale)))
                theirs = dict(_leaves(b))
                yield from (Pair("cldr", language, text, theirs[key]) for key, text in _leaves(a) if key in theirs)


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Texts of a tree by their path, patterns with placeholders left out."""
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield from _leaves(inner, f"{key}/{name}")
    elif isinstance(tree, str) and "{" not in tree and len(tree) > 2:
        yield key, tree


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def unihan(root: Path) -> Iterator[Pair]:
    """Unihan: what Chinese characters mean (Unicode-3.0)."""
    for line in bz2.decompress((root / "usr/share/unicode/Unihan_Readings.txt.bz2").read_bytes()).decode().splitlines():
        if "\tkDefinition\t" in line:
            code, _, meaning = line.split("\t")
            character = chr(int(code.removeprefix("U+"), 16))
            if "\u4e00" <= character <= "\u9fff":
                yield Pair("unihan", "zh", re.sub(r"\([^)]*\)", "", meaning).strip(), character)
