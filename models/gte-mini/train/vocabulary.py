"""Makes tokenizers of XLM-R's kind: the teacher's, and ours with a part of its pieces.

A vocabulary trained on our own texts would know menus and dialogs; XLM-R's was trained on a web
crawl, so its likely pieces are everyday words. We keep what our languages use.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from heldout import CARD
from sources import MAIN
from tokenizers import Tokenizer

SECONDARY = 0.2
"""The weight of a language that is not one of MAIN, relative to one that is."""
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
CRAWL = 0.4
"""The weight of a piece's share of XLM-R's web crawl, relative to its share of our languages' texts."""
SCRIPTS = {
    "LATIN": 13.0, "CYRILLIC": 2.5, "CJK": 2.0, "ARABIC": 1.5, "DEVANAGARI": 1.2, "THAI": 1.2, "HANGUL": 1.2,
    "HIRAGANA": 0.4, "KATAKANA": 0.3, "GREEK": 0.5, "HEBREW": 0.5, "KATAKANA-HIRAGANA": 0.0, "DIGIT": 0.1,
    "FULLWIDTH": 0.0, "COMBINING": 0.1, "IDEOGRAPHIC": 0.0, "?": 0.1,
}  # fmt: skip
"""The weight of all pieces of a script in the crawl: about 1 for each of our languages. The crawl itself is
mostly English and Russian."""
UNSPACED = ("CJK", "THAI", "HIRAGANA", "KATAKANA")
"""Scripts without spaces between words, whose pieces can be words without a leading space."""
IDEOGRAPHS = 3500
"""The number of most probable Chinese characters that are included even if our texts do not have them."""


def tokenizer_json(template: dict[str, Any], pieces: list[tuple[str, float]]) -> str:
    """A tokenizer.json with these pieces and the template's normaliser, pre-tokenizer and special tokens."""
    rows = (
        [[piece, 0.0] for piece in SPECIALS]
        + [[piece, round(score, 5)] for piece, score in pieces]
        + [[MASK, 0.0]]
    )
    added = [
        token | {"id": len(rows) - 1} if token["content"] == MASK else token
        for token in template["added_tokens"]
    ]
    made = template | {"added_tokens": added, "model": template["model"] | {"vocab": rows}}
    return json.dumps(made, ensure_ascii=False, separators=(",", ":"))


def whole(template: Path, pieces: list[tuple[str, float]]) -> Tokenizer:
    """The teacher's tokenizer, with its ids."""
    body = [piece for piece in pieces if piece[0] not in (*SPECIALS, MASK)]
    return Tokenizer.from_str(tokenizer_json(json.loads(template.read_text(encoding="utf-8")), body))


def script(piece: str) -> str | None:
    """The one script of a piece's letters, "?" if it has none, None for scripts that are not ours."""
    found = {unicodedata.name(c, "?").split()[0] for c in piece.lstrip("▁") if c.isalpha()}
    return min(found, default="?") if found <= SCRIPTS.keys() else None


def _is_ideograph(piece: str) -> bool:
    return len(piece) == 1 and "\u4e00" <= piece <= "\u9fff"


def count(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> dict[str, Counter[str]]:
    """{language: how often its texts use each piece}."""
    return {
        language: Counter(
            piece for found in tokenizer.encode_batch(given) for piece in found.tokens
        )  # the fast one leaves tokens empty
        for language, given in texts.items()
    }


def choose(
    pieces: list[tuple[str, float]], counts: dict[str, Counter[str]], characters: set[str], size: int
) -> list[tuple[str, float]]:
    """The pieces that our languages use most, with equal weights, and the most probable of the crawl.

    Args:
        characters: those of our texts; as pieces they are always in, so that no text of ours has unknowns.
    """
    scripts = {piece: script(piece) for piece, _ in pieces}
    body = [piece for piece in pieces if piece[0] not in (*SPECIALS, MASK) and scripts[piece[0]]]
    crawled: Counter[str] = Counter()
    for piece, score in body:
        crawled[scripts[piece] or "?"] += math.exp(score)  # type: ignore[assignment]
    weight = {
        script: CRAWL * share / sum(SCRIPTS.values()) / crawled[script]
        for script, share in SCRIPTS.items()
        if crawled[script]
    }
    worth = {piece: weight[scripts[piece] or "?"] * math.exp(score) for piece, score in body}
    often = {language: 1.0 if language in (*MAIN, "en") else SECONDARY for language in counts}
    for language, found in counts.items():
        share = often[language] / sum(often.values()) / found.total()
        for piece, number in found.items():
            if piece in worth:
                worth[piece] += number * share
    always = [piece for piece, _ in body if _is_ideograph(piece)][:IDEOGRAPHS]
    for piece in {*always, *(piece for piece in worth if len(piece) == 1 and piece in characters)}:
        worth[piece] += 1
    kept = sorted(body, key=lambda piece: -worth[piece[0]])[: size - len(SPECIALS) - 1]
    return sorted(kept, key=lambda piece: -piece[1])


def _is_word(text: str) -> bool:
    """Whether a text consists of letters and combining signs, without which Hindi and Thai have few words."""
    return all(c.isalpha() or unicodedata.category(c) in ("Mn", "Mc") for c in text)


def words(pieces: list[tuple[str, float]], have: set[str], number: int) -> list[str]:
    """The most probable whole words of the crawl that are not in `have`; scripts have the same weights."""
    found: dict[str, list[str]] = {}
    for piece, _ in pieces:
        name, text = script(piece) or "", piece.removeprefix("▁")
        whole = piece.startswith("▁") or name in UNSPACED
        if (
            whole
            and piece not in have
            and len(text) >= (2 if name in UNSPACED else 3)
            and _is_word(text)
            and text not in CARD
        ):
            found.setdefault(name, []).append(piece)
    shares = {name: share for name, share in SCRIPTS.items() if name in found}
    return [
        word
        for name, share in shares.items()
        for word in found[name][: int(number * share / sum(shares.values()))]
    ]
