"""Three stages, each in steps that can be stopped and resumed.

    tokens       the token vectors, from the teacher's
    weights      the token weights, with the token vectors copied into the encoder
    encoder      everything

A stage's state is saved every SAVE_EVERY steps; batches depend on the step's number alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import losses
import torch
from batches import Batches, Pages
from dev import Dev
from model import VOCABULARY, Student
from precision import autocast
from static import Static, copy_into
from torch import Tensor, nn
from torch.nn import functional as f

SAVE_EVERY = 40
LOG_EVERY = 20
LOOK_EVERY = 400
"""Steps between looks at the dev part."""
TAUGHT = 10.0
WORDS = 768
WORD_SHARE = 1.0
LEXICAL_SHARE = 0.6
PLAUSIBLE_SHARE = 3.0
TITLES = 32
LEXICAL_EVERY = 4
PAGE = 128


@dataclass(frozen=True)
class Stage:
    """How long, how many pairs a step, and the learning rates, which rise, and fall along a cosine in the last `falling` steps."""

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
ENCODER = Stage("encoder", 1200, 96, (6e-4, 1e-3, 1e-3), falling=600, warmup=40)


def _run(
    stage: Stage,
    module: nn.Module,
    groups: list[list[nn.Parameter]],
    loss: Callable[[int], Tensor],
    look: Callable[[], str] | None,
    out: Path,
) -> None:
    """The loop: AdamW, one rate for each group, gradient clipping, saving and resuming."""
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": rate, "weight_decay": 0.0} for group, rate in zip(groups, stage.rates, strict=True)],
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, stage.rate)
    state, first = out / f"{stage.name}.pt", 0
    if state.exists():
        saved = torch.load(state)
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        first = saved["step"]
    began, running = time.monotonic(), 0.0
    for step in range(first, stage.steps):
        optimizer.zero_grad(set_to_none=True)
        value = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_([p for group in groups for p in group], 1.0)
        optimizer.step()
        schedule.step()
        running += value.item()
        if (step + 1) % LOG_EVERY == 0:
            print(f"{stage.name} {step + 1}/{stage.steps} loss {running / LOG_EVERY:.4f} {time.monotonic() - began:.0f} s", flush=True)
            running = 0.0
        if look and ((step + 1) % LOOK_EVERY == 0 or step + 1 == stage.steps):
            print(f"{stage.name} {step + 1} dev: {look()}", flush=True)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
            kept = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "step": step + 1}
            torch.save(kept, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)


def train_static(batches: Batches, dev: Dev, pieces: Tensor, projection: Tensor, out: Path, stage: Stage) -> Static:
    static = Static(pieces, projection)

    def loss(step: int) -> Tensor:
        batch = batches.pairs(step, stage.pairs)
        a, b = static(batch.english), static(batch.other)
        words, targets = batches.words(step, WORDS)
        taught = losses.taught(torch.cat([a, b]), batch.targets.repeat(2, 1)) + WORD_SHARE * losses.taught(static(words), targets)
        return losses.dense(a, b, batch.same) + TAUGHT * taught

    _run(stage, static, [[static.projection], [static.free], [static.score]], loss, lambda: dev.line(static), out)
    return static


def _weights_loss(student: Student, both: tuple[Tensor, Tensor], short: Tensor, rarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The token weights' loss, and the CLS states of titles and pages.

    Titles are to find their pages by the pieces they share; there and in `short` texts a piece's
    score stays near its rarity.
    """
    texts = (*both, short)
    with autocast():
        found = [student(ids) for ids in texts]
    scores = [scores.float() for _, scores in found]
    lexical = losses.lexical(both, (f.relu(scores[0]), f.relu(scores[1])), VOCABULARY)
    kept = torch.stack([losses.plausible(ids, row, rarity) for ids, row in zip(texts, scores, strict=True)]).sum()
    return lexical + PLAUSIBLE_SHARE * kept, found[0][0].float(), found[1][0].float()


def train_weights(batches: Batches, pages: Pages, student: Student, out: Path, stage: Stage) -> None:
    """The token weights alone."""
    rarity = batches.rarity()
    head = list(student.classifier.parameters())
    for parameter in student.parameters():
        parameter.requires_grad = any(parameter is own for own in head)

    def loss(step: int) -> Tensor:
        batch = batches.pairs(10**6 + step, stage.pairs)
        return _weights_loss(student, pages.titles(step, stage.pairs, PAGE), _rows(batch.english, batch.other), rarity)[0]

    _run(stage, student.classifier, [head], loss, None, out)
    student.requires_grad_(True)


def _rows(*parts: Tensor) -> Tensor:
    longest = max(rows.shape[1] for rows in parts)
    return torch.cat([f.pad(rows, (0, longest - rows.shape[1]), value=1) for rows in parts])


def train_encoder(batches: Batches, pages: Pages, dev: Dev, student: Student, out: Path, stage: Stage) -> None:
    rarity = batches.rarity()

    def loss(step: int) -> Tensor:
        batch = batches.pairs(10**6 + step, stage.pairs)
        words, targets = batches.words(10**6 + step, stage.pairs)
        with autocast():
            rows = student.cls(_rows(batch.english, batch.other, words))
        a, b, c = rows.float().split([stage.pairs, stage.pairs, len(words)])
        taught = losses.taught(torch.cat([a, b]), batch.targets.repeat(2, 1)) + WORD_SHARE * losses.taught(c, targets)
        value = losses.dense(a, b, batch.same) + TAUGHT * taught
        if step % LEXICAL_EVERY:
            return value
        some = slice(stage.pairs // 8)
        short = _rows(batch.english[some], batch.other[some], words)
        lexical, left, right = _weights_loss(student, pages.titles(10**6 + step, TITLES, PAGE), short, rarity)
        return value + LEXICAL_SHARE * (lexical + losses.dense(left, right, torch.eye(len(left)) > 0))

    words, head = student.embeddings.word_embeddings.weight, list(student.classifier.parameters())
    _run(stage, student, [list(student.encoder.parameters()), [words], head], loss, lambda: dev.line(student.cls), out)


def train(batches: Batches, pages: Pages, dev: Dev, pieces: Tensor, projection: Tensor, out: Path, stages: Sequence[Stage]) -> Student:
    """All stages; `out` keeps their states."""
    torch.manual_seed(0)
    student = Student()
    copy_into(student, train_static(batches, dev, pieces, projection, out, stages[0]))
    train_weights(batches, pages, student, out, stages[1])
    train_encoder(batches, pages, dev, student, out, stages[2])
    return student.eval()
