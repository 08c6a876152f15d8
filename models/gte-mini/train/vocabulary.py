"""Tokenizers of XLM-R's kind: the teacher's whole one, and ours, cut from it.

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

from tokenizers import Tokenizer

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
CRAWL = 0.5
"""How much a piece's share of XLM-R's web crawl counts beside its mean share of our languages' texts."""
SCRIPTS = [
    "LATIN", "GREEK", "CYRILLIC", "ARABIC", "HEBREW", "DEVANAGARI", "THAI", "HANGUL",
    "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK", "DIGIT", "FULLWIDTH", "COMBINING", "IDEOGRAPHIC",
]  # fmt: skip
IDEOGRAPHS = 4500
"""So many of the likeliest Chinese characters are in, whether or not our texts have them."""


def tokenizer_json(template: dict[str, Any], pieces: list[tuple[str, float]]) -> str:
    """A tokenizer.json with these pieces and the template's normaliser, pre-tokenizer and special tokens."""
    rows = [[piece, 0.0] for piece in SPECIALS] + [[piece, round(score, 5)] for piece, score in pieces] + [[MASK, 0.0]]
    added = [token | {"id": len(rows) - 1} if token["content"] == MASK else token for token in template["added_tokens"]]
    made = template | {"added_tokens": added, "model": template["model"] | {"vocab": rows}}
    return json.dumps(made, ensure_ascii=False, separators=(",", ":"))


def whole(template: Path, pieces: list[tuple[str, float]]) -> Tokenizer:
    """The teacher's tokenizer, with its ids."""
    body = [piece for piece in pieces if piece[0] not in (*SPECIALS, MASK)]
    return Tokenizer.from_str(tokenizer_json(json.loads(template.read_text(encoding="utf-8")), body))


def _of_our_scripts(piece: str) -> bool:
    return all(unicodedata.name(c, "?").split()[0] in SCRIPTS for c in piece.lstrip("▁") if c.isalpha())


def _is_ideograph(piece: str) -> bool:
    return len(piece) == 1 and "\u4e00" <= piece <= "\u9fff"


def count(tokenizer: Tokenizer, texts: dict[str, list[str]]) -> dict[str, Counter[str]]:
    """By language, how often its texts use a piece."""
    return {
        language: Counter(piece for found in tokenizer.encode_batch_fast(given) for piece in found.tokens)
        for language, given in texts.items()
    }


def choose(pieces: list[tuple[str, float]], counts: dict[str, Counter[str]], characters: set[str], size: int) -> list[tuple[str, float]]:
    """The pieces our languages use most, each language counting the same, and the likeliest of the crawl.

    Args:
        characters: those of our texts; as pieces they are always in, so that no text of ours has unknowns.
    """
    body = [piece for piece in pieces if piece[0] not in (*SPECIALS, MASK) and _of_our_scripts(piece[0])]
    worth = {piece: CRAWL * math.exp(score) for piece, score in body}
    for found in counts.values():
        total = found.total()
        for piece, number in found.items():
            if piece in worth:
                worth[piece] += number / total / len(counts)
    always = [piece for piece, _ in body if _is_ideograph(piece)][:IDEOGRAPHS]
    for piece in {*always, *(piece for piece in worth if len(piece) == 1 and piece in characters)}:
        worth[piece] += 1
    kept = sorted(body, key=lambda piece: -worth[piece[0]])[: size - len(SPECIALS) - 1]
    return sorted(kept, key=lambda piece: -piece[1])
