"""The three stages of training, each of which can be stopped and resumed.

    tokens       the token vectors, from the teacher's
    weights      the token weights, with the token vectors copied into the encoder
    encoder      everything

A stage's state is saved every SAVE_EVERY steps. Batches depend only on the step's number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import losses
import torch
from batches import Batches, Pages, grouped, padded
from dev import Dev
from device import DEVICE, ON_GPU, autocast, sent
from model import VOCABULARY, Student
from static import Static, copy_into
from torch import Tensor, nn
from torch.nn import functional as f
from torch.utils.data import DataLoader, Dataset

SAVE_EVERY = 500 if ON_GPU else 40
LOG_EVERY = 100 if ON_GPU else 20
WORKERS = 3 if ON_GPU else 0
"""Further processes that make batches. When training on a CPU they would only compete for it."""
LOOK_EVERY = 400
"""Steps between measurements on the dev part."""
TAUGHT = 10.0
WORDS = 768
WORD_SHARE = 1.0
LEXICAL_SHARE = 0.6
PLAUSIBLE_SHARE = 3.0
TITLES = 32
SHORT = 96
"""So many words have a say in what a token tells."""
LEXICAL_EVERY = 4
PAGE = 128


@dataclass(frozen=True)
class Stage:
    """The size of a stage and its learning rates.

    The rates rise first, and fall along a cosine in the last `falling` steps.
    """

    name: str
    steps: int
    pairs: int
    rates: tuple[float, ...]
    falling: int
    warmup: int = 20

    def rate(self, step: int) -> float:
        fallen = max(0.0, 1 - (self.steps - step) / self.falling)
        return min(1.0, (step + 1) / self.warmup) * (0.02 + 0.49 * (1 + math.cos(math.pi * fallen)))


TOKENS = Stage("tokens", 900, 512, (1e-3, 2e-2, 1e-2), falling=900)
WEIGHTS = Stage("weights", 120, 32, (2e-2,), falling=120)
ENCODER = (
    Stage("encoder", 1862, 512, (1e-3, 1.5e-3, 1e-3), falling=1472, warmup=150)
    if ON_GPU
    else Stage("encoder", 1200, 96, (6e-4, 1e-3, 1e-3), falling=600, warmup=40)
)
"""Three minutes on a GPU, or 40 on a CPU."""


class Aims(NamedTuple):
    """Targets of the English texts and of words and spans, normalised; zeros where there is none."""

    texts: Tensor
    words: Tensor


Made = Any
"""An array when it is made, a tensor after `device.sent`."""


class Titles(NamedTuple):
    """Titles, their pages, and short texts, each padded: the input for the token weights."""

    titles: Made
    pages: Made
    short: Made


class Step(NamedTuple):
    """The input of a step: the sides of pairs, words, the facts of `Batch`, and titles in some steps."""

    rows: Any
    texts: Made
    first: Made
    words: Made
    titles: Titles | None = None


class Steps(Dataset[Any]):
    """A dataset of what `make` returns for each step."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> Any:
        return self._make(step)


def as_made(prepared: Any) -> Any:
    """Keep arrays: workers would send tensors through shared memory, of which containers have little."""
    return prepared


def _run(
    stage: Stage,
    module: nn.Module,
    groups: list[list[nn.Parameter]],
    make: Callable[[int], Any],
    loss: Callable[[Any], Tensor],
    look: Callable[[], str] | None,
    out: Path,
) -> None:
    """The loop: AdamW, one rate for each group, gradient clipping, saving and resuming.

    Args:
        make: what the step of a number reads, made ahead of time in other processes where there are any
        loss: of what was made, on the device
    """
    optimizer = torch.optim.AdamW(
        [
            {"params": group, "lr": rate, "weight_decay": 0.0}
            for group, rate in zip(groups, stage.rates, strict=True)
        ],
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, stage.rate)
    state, first = out / f"{stage.name}.pt", 0
    if state.exists():
        saved = torch.load(state, map_location=DEVICE)
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        first = saved["step"]
    began, running = time.monotonic(), torch.zeros((), device=DEVICE)
    numbers, context = (
        range(first, stage.steps),
        "fork" if WORKERS else None,
    )  # forked workers share the texts with this process
    made = DataLoader(
        Steps(make),
        None,
        sampler=numbers,
        num_workers=WORKERS,
        collate_fn=as_made,
        multiprocessing_context=context,
    )
    for step, prepared in enumerate(made, first):
        optimizer.zero_grad(set_to_none=True)
        value = loss(sent(prepared))
        value.backward()
        nn.utils.clip_grad_norm_([p for group in groups for p in group], 1.0)
        optimizer.step()
        schedule.step()
        running += value.detach()
        if (step + 1) % LOG_EVERY == 0:
            print(
                f"{stage.name} {step + 1}/{stage.steps} loss {running / LOG_EVERY:.4f} "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
            running.zero_()
        if look and ((step + 1) % LOOK_EVERY == 0 or step + 1 == stage.steps):
            print(f"{stage.name} {step + 1} dev: {look()}", flush=True)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
            kept = {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
            }
            torch.save(kept, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)


def _loss(a: Tensor, b: Tensor, words: Tensor, step: Step, aims: Aims) -> Tensor:
    """The loss of vectors: translations find each other, and all vectors are close to the teacher's."""
    there = losses.aims(aims.texts, step.texts)
    taught = losses.taught(torch.cat([a, b]), there.repeat(2, 1)) + WORD_SHARE * losses.taught(
        words, aims.words[step.words]
    )
    return losses.dense(a, b, losses.alike(there, step.first)) + TAUGHT * taught


def train_static(
    batches: Batches, dev: Dev, aims: Aims, pieces: Tensor, projection: Tensor, out: Path, stage: Stage
) -> Static:
    static = Static(pieces, projection).to(DEVICE)

    def make(step: int) -> Step:
        batch = batches.pairs(step, stage.pairs)
        words, numbers = batches.words(step, WORDS, alone=True)
        return Step(
            (padded(batch.english), padded(batch.other), padded(words)), batch.texts, batch.first, numbers
        )

    def loss(step: Step) -> Tensor:
        a, b, words = (static(ids) for ids in step.rows)
        return _loss(a, b, words, step, aims)

    _run(
        stage,
        static,
        [[static.projection], [static.free], [static.score]],
        make,
        loss,
        lambda: dev.line(static),
        out,
    )
    return static.cpu()


def _weights_loss(student: Student, texts: Titles, rarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The token weights' loss, and the CLS states of titles and pages.

    Titles are to find their pages by the pieces they share; there and in `short` texts a piece's
    score stays near its rarity.
    """
    with autocast():
        found = [student(ids) for ids in texts]
    scores = [scores.float() for _, scores in found]
    lexical = losses.lexical(texts[:2], (f.relu(scores[0]), f.relu(scores[1])), VOCABULARY)
    kept = torch.stack(
        [losses.plausible(ids, row, rarity) for ids, row in zip(texts, scores, strict=True)]
    ).sum()
    return lexical + PLAUSIBLE_SHARE * kept, found[0][0].float(), found[1][0].float()


def train_weights(batches: Batches, pages: Pages, student: Student, out: Path, stage: Stage) -> None:
    """The token weights alone."""
    rarity = batches.rarity().to(DEVICE)
    head = list(student.classifier.parameters())
    for parameter in student.parameters():
        parameter.requires_grad = any(parameter is own for own in head)

    def make(step: int) -> Titles:
        batch = batches.pairs(10**6 + step, stage.pairs)
        return Titles(*pages.titles(step, stage.pairs, PAGE), padded(batch.english + batch.other))

    _run(
        stage,
        student.classifier,
        [head],
        make,
        lambda titles: _weights_loss(student, titles, rarity)[0],
        None,
        out,
    )
    student.requires_grad_(True)


def train_encoder(
    batches: Batches, pages: Pages, dev: Dev, aims: Aims, student: Student, out: Path, stage: Stage
) -> None:
    rarity = batches.rarity().to(DEVICE)

    def make(step: int) -> Step:
        batch = batches.pairs(10**6 + step, stage.pairs)
        words, numbers = batches.words(10**6 + step, stage.pairs)
        rows = grouped(batch.english + batch.other + words)
        if step % LEXICAL_EVERY:
            return Step(rows, batch.texts, batch.first, numbers)
        some = slice(stage.pairs // 8)
        short = padded(batch.english[some] + batch.other[some] + words[:SHORT])
        return Step(
            rows, batch.texts, batch.first, numbers, Titles(*pages.titles(10**6 + step, TITLES, PAGE), short)
        )

    def loss(step: Step) -> Tensor:
        with autocast():
            rows = student.cls(*step.rows.parts)[step.rows.back]
        value = _loss(*rows.float().split(stage.pairs), step, aims)
        if step.titles is None:
            return value
        lexical, left, right = _weights_loss(student, step.titles, rarity)
        return value + LEXICAL_SHARE * (
            lexical + losses.dense(left, right, torch.eye(len(left), device=DEVICE) > 0)
        )

    words, head = student.embeddings.word_embeddings.weight, list(student.classifier.parameters())
    _run(
        stage,
        student,
        [list(student.encoder.parameters()), [words], head],
        make,
        loss,
        lambda: dev.line(student.cls),
        out,
    )


def train(
    batches: Batches,
    pages: Pages,
    dev: Dev,
    aims: Aims,
    pieces: Tensor,
    projection: Tensor,
    out: Path,
    stages: Sequence[Stage],
) -> Student:
    """All stages; `out` keeps their states."""
    torch.manual_seed(0)
    student = Student()
    aims = Aims(aims.texts.to(DEVICE), aims.words.to(DEVICE))
    copy_into(student, train_static(batches, dev, aims, pieces, projection, out, stages[0]))
    student.to(DEVICE)
    train_weights(batches, pages, student, out, stages[1])
    train_encoder(batches, pages, dev, aims, student, out, stages[2])
    return student.eval()
