"""What is in a batch: sources in fixed shares, languages evenly, some pairs joined to longer ones."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

SHARES = {
    "help": 0.36, "libreoffice": 0.16, "cldr-terms": 0.14, "cldr-keywords": 0.22, "cldr": 0.05, "iso-codes": 0.03, "unihan": 0.04,
}  # fmt: skip
JOINED = 0.3
"""So many pairs are two or three of one source and language, one after the other: longer texts, other lengths."""
CAPITALS = 0.15
"""So many pairs have their English in lower case, as queries often are."""
TOKENS = 96

Texts = tuple[str, str]


class Batches:
    """Batches by number: the same number gives the same batch, so that training can resume anywhere."""

    def __init__(self, path: Path, tokenizer: Path) -> None:
        self._pairs: dict[str, dict[str, list[Texts]]] = defaultdict(lambda: defaultdict(list))
        with path.open(encoding="utf-8") as file:
            for line in file:
                source, language, english, other = json.loads(line)
                self._pairs[source][language].append((english, other))
        self._tokenizer = Tokenizer.from_file(str(tokenizer))

    def pairs(self, number: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(English ids, other ids, which pairs share a text)."""
        rng = random.Random(number)
        drawn = [self._draw(rng) for _ in range(size)]
        return *self._ids(drawn, TOKENS), _shared(drawn)

    def titles(self, number: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Titles and texts of pages, one language a batch."""
        rng = random.Random(f"titles {number}")
        language = rng.choice(sorted(self._pairs["title"]))
        drawn = [(title, text[: 8 * TOKENS]) for title, text in rng.sample(self._pairs["title"][language], size)]
        return *self._ids(drawn, TOKENS), _shared(drawn)

    def _draw(self, rng: random.Random) -> Texts:
        (source,) = rng.choices(list(SHARES), list(SHARES.values()))
        language = rng.choice(list(self._pairs[source]))
        count = rng.randint(2, 3) if rng.random() < JOINED else 1
        found = [rng.choice(self._pairs[source][language]) for _ in range(count)]
        english, other = (" ".join(pair[side] for pair in found) for side in (0, 1))
        return (english.lower() if rng.random() < CAPITALS else english), other

    def _ids(self, pairs: list[Texts], limit: int) -> tuple[Tensor, Tensor]:
        self._tokenizer.enable_truncation(limit)
        self._tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
        return tuple(  # type: ignore[return-value]
            torch.tensor([found.ids for found in self._tokenizer.encode_batch([pair[side] for pair in pairs])]) for side in (0, 1)
        )


def _shared(pairs: list[Texts]) -> Tensor:
    first, second = ([{text: n for n, text in enumerate(texts)}[text] for text in texts] for texts in zip(*pairs, strict=True))
    a, b = torch.tensor(first), torch.tensor(second)
    return (a[:, None] == a) | (b[:, None] == b)
