"""Measures a model in training: top-1 accuracy on held-out terms, messages, prose and sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from batches import padded, tokenized
from device import sent
from everyday import SENTENCES as EVERYDAY
from heldout import CARD
from prose import SENTENCES as PROSE
from sources import MAIN
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as f

GROUP = 30
SEARCHES = 4
"""The groups of passages, of ten, that are measured: two of Deuteronomy, two of Proverbs."""
TOKENS = 192
PART = 128
PARTNER = [2, 3, 0, 1]


class Dev:
    def __init__(self, heldout: Path, tokenizer: Path) -> None:
        made = Tokenizer.from_file(str(tokenizer))
        held = json.loads(heldout.read_text(encoding="utf-8"))["dev"]
        names = ("terms", "messages", "paragraphs", "scripture", "prose", "everyday")
        sets: dict[str, dict[str, list[list[str]]]] = {name: {} for name in names}
        for language in (language for language in MAIN if language in held["terms"]):
            sets["terms"][language] = held["terms"][language]
            for name in ("messages", "paragraphs"):
                if len(held[name][language]) >= GROUP:
                    sets[name][language] = held[name][language][: 3 * GROUP]
            if language in held["scripture"]:
                sets["scripture"][language] = held["scripture"][language][: SEARCHES * GROUP]
            sets["prose"][language] = [list(pair) for pair in zip(PROSE["en"], PROSE[language], strict=True)]
            if language in EVERYDAY:
                sets["everyday"][language] = [
                    list(pair) for pair in zip(EVERYDAY["en"], EVERYDAY[language], strict=True)
                ]

        def ids(texts: list[str]) -> Tensor:
            rows = tokenized(made, texts)
            return sent(padded([rows[n] for n in range(len(texts))], TOKENS))

        self._sets = {
            name: {
                language: [ids([pair[side] for pair in pairs]) for side in (0, 1)]
                for language, pairs in found.items()
            }
            for name, found in sets.items()
        }
        self._card = ids(list(CARD))

    @torch.inference_mode()
    def line(self, vectors: Callable[[Tensor], Tensor]) -> str:
        out = []
        for name, found in self._sets.items():
            scores = {}
            for language, sides in found.items():
                english, other = (
                    f.normalize(torch.cat([vectors(part) for part in rows.split(PART)])) for rows in sides
                )
                size = GROUP if name in ("messages", "paragraphs", "scripture") else len(english)
                hits = [
                    (b @ a.T).argmax(1) == torch.arange(len(a), device=a.device)
                    for a, b in zip(english.split(size), other.split(size), strict=True)
                    if len(a) == size
                ]
                scores[language] = float(torch.cat(hits).float().mean() * 100)
            worst = sorted(scores, key=lambda language: scores[language])[:3]
            out.append(
                f"{name} {sum(scores.values()) / len(scores):.1f} "
                f"({' '.join(f'{x} {scores[x]:.0f}' for x in worst)})"
            )
        rows = f.normalize(vectors(self._card))
        near = (rows @ rows.T).fill_diagonal_(-1).argmax(1)
        return "; ".join([*out, f"card {sum(a == b for a, b in zip(near.tolist(), PARTNER, strict=True))}"])
