"""Three stages, each in steps that can be stopped and resumed.

    tokens       the token vectors, from the teacher's
    weights      the token weights, with the token vectors copied into the encoder
    encoder      everything

A stage's state is saved every SAVE_EVERY steps; batches depend on the step's number alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import losses
import numpy as np
import torch
from batches import Batches, Pages
from dev import Dev
from model import VOCABULARY, Student
from static import Static, copy_into
from torch import Tensor, nn
from torch.nn import functional as f

SAVE_EVERY = 40
LOG_EVERY = 20
LOOK_EVERY = 100
"""Steps between looks at the dev part."""
TAUGHT = 10.0
WORDS = 256
WORD_SHARE = 1.0
LEXICAL_SHARE = 0.3
TITLES = 32
LEXICAL_EVERY = 2
PAGE = 128


@dataclass(frozen=True)
class Stage:
    """How long, how many pairs a step, and the learning rates, which rise and then fall along a cosine."""

    name: str
    steps: int
    pairs: int
    rates: tuple[float, ...]
    warmup: int = 20

    def rate(self, step: int) -> float:
        fall = 0.5 * (1 + np.cos(np.pi * step / self.steps))
        return float(min(1.0, (step + 1) / self.warmup) * (0.02 + 0.98 * fall))


TOKENS = Stage("tokens", 900, 512, (1e-3, 2e-2, 1e-2))
WEIGHTS = Stage("weights", 120, 48, (2e-2,))
ENCODER = Stage("encoder", 160, 64, (3e-4, 5e-4, 5e-3), 10)


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


def train_weights(pages: Pages, student: Student, out: Path, stage: Stage) -> None:
    """The token weights alone: a title is to find its page by the pieces they share."""

    def loss(step: int) -> Tensor:
        both = pages.titles(step, stage.pairs, PAGE)
        weights = []
        for ids in both:
            with torch.no_grad():
                states = student.states(ids)
            weights.append(f.relu(student.classifier(states)[..., 0]))
        return losses.lexical(both, (weights[0], weights[1]), VOCABULARY)

    _run(stage, student.classifier, [list(student.classifier.parameters())], loss, None, out)


def train_encoder(batches: Batches, pages: Pages, dev: Dev, student: Student, out: Path, stage: Stage) -> None:
    def loss(step: int) -> Tensor:
        batch = batches.pairs(10**6 + step, stage.pairs)
        words, targets = batches.words(10**6 + step, stage.pairs // 2)
        longest = max(rows.shape[1] for rows in (batch.english, batch.other, words))
        every = torch.cat([f.pad(rows, (0, longest - rows.shape[1]), value=1) for rows in (batch.english, batch.other, words)])
        a, b, c = student.cls(every).split([stage.pairs, stage.pairs, len(words)])
        taught = losses.taught(torch.cat([a, b]), batch.targets.repeat(2, 1)) + WORD_SHARE * losses.taught(c, targets)
        value = losses.dense(a, b, batch.same) + TAUGHT * taught
        if step % LEXICAL_EVERY:
            return value
        titles, texts = pages.titles(10**6 + step, TITLES, PAGE)
        (left, left_weights), (right, right_weights) = student(titles), student(texts)
        lexical = losses.lexical((titles, texts), (left_weights, right_weights), VOCABULARY)
        return value + LEXICAL_SHARE * (lexical + losses.dense(left, right, torch.eye(len(left)) > 0))

    words, head = student.embeddings.word_embeddings.weight, list(student.classifier.parameters())
    _run(stage, student, [list(student.encoder.parameters()), [words], head], loss, lambda: dev.line(student.cls), out)


def train(batches: Batches, pages: Pages, dev: Dev, pieces: Tensor, projection: Tensor, out: Path, stages: Sequence[Stage]) -> Student:
    """All stages; `out` keeps their states."""
    torch.manual_seed(0)
    student = Student()
    copy_into(student, train_static(batches, dev, pieces, projection, out, stages[0]))
    train_weights(pages, student, out, stages[1])
    train_encoder(batches, pages, dev, student, out, stages[2])
    return student.eval()
