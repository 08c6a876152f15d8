"""The teacher's vectors of English texts: the student's targets for them and their translations.

Only English is read (Reimers and Gurevych 2020, "Making Monolingual Sentence Embeddings Multilingual
using Knowledge Distillation"): one reading serves every language, and a translation's target has
nothing of its own language in it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from teacher import Teacher, embed
from tokenizers import Tokenizer

CHUNK = 8192
FIRST = ("cldr-terms", "cldr-keywords", "cldr", "iso-codes", "unihan", "places", "places-words", "scripture")
"""Sources that the teacher reads first; the others follow in random order."""


def english(path: Path) -> list[str]:
    """Every English text of a pair once, those of FIRST first."""
    first: set[str] = set()
    rest: set[str] = set()
    with path.open(encoding="utf-8") as file:
        for line in file:
            source, _, text, _ = json.loads(line)
            (first if source in FIRST else rest).add(text)
    other = sorted(rest - first)
    random.Random(0).shuffle(other)
    return sorted(first) + other


def make(teacher: Teacher, tokenizer: Tokenizer, texts: list[str], out: Path) -> None:
    """Vectors in float16, in files of CHUNK texts. Files that exist are kept."""
    out.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(texts), CHUNK)):
        path = out / f"{number:04}.npy"
        if not path.exists():
            np.save(
                path.with_suffix(".part.npy"),
                embed(teacher, tokenizer, texts[start : start + CHUNK]).astype(np.float16),
            )
            path.with_suffix(".part.npy").replace(path)
            print(f"targets {min(start + CHUNK, len(texts))}/{len(texts)}", flush=True)
