"""Three stages, each in steps that can be stopped and resumed.

    projection   the teacher's token vectors, turned and weighed so that translations meet
    tokens       the token vectors themselves
    encoder      everything, and the token weights, from where the first two have come

A stage's state is saved every SAVE_EVERY steps; batches depend on the step's number alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import losses
import numpy as np
import torch
from batches import Batches
from model import VOCABULARY, Student
from static import Static, copy_into
from torch import Tensor, nn

SAVE_EVERY = 25
LOG_EVERY = 10
LEXICAL_SHARE = 0.3


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


PROJECTION = Stage("projection", 80, 512, (1e-3, 2e-2))
TOKENS = Stage("tokens", 1050, 512, (1e-3, 2e-2, 1e-2))
ENCODER = Stage("encoder", 100, 96, (5e-4, 1e-3, 5e-3))


def _run(stage: Stage, module: nn.Module, groups: list[list[nn.Parameter]], loss: Callable[[int], Tensor], out: Path) -> None:
    """The loop: AdamW, one rate for each group, gradient clipping, saving and resuming."""
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": rate, "weight_decay": 0.0} for group, rate in zip(groups, stage.rates, strict=True)], betas=(0.9, 0.98)
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
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
            kept = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "step": step + 1}
            torch.save(kept, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)


def train_static(batches: Batches, pieces: Path, out: Path) -> Static:
    static = Static(torch.from_numpy(np.load(pieces)))

    def loss(stage: Stage, step: int) -> Tensor:
        a, b, same = batches.pairs(step if stage is PROJECTION else PROJECTION.steps + step, stage.pairs)
        return losses.dense(static(a), static(b), same)

    _run(PROJECTION, static, [[static.projection], [static.score]], lambda step: loss(PROJECTION, step), out)
    groups = [[static.projection], [static.free], [static.score]]
    _run(TOKENS, static, groups, lambda step: loss(TOKENS, step), out)
    return static


def train_encoder(batches: Batches, static: Static, out: Path) -> Student:
    student = Student()
    copy_into(student, static)

    def loss(step: int) -> Tensor:
        a, b, same = batches.pairs(10**6 + step, ENCODER.pairs)
        value = losses.dense(student.cls(a), student.cls(b), same)
        if step % 2:
            return value
        titles, texts, same = batches.titles(step, ENCODER.pairs // 3)
        (left, left_weights), (right, right_weights) = student(titles), student(texts)
        lexical = losses.lexical((titles, texts), (left_weights, right_weights), VOCABULARY)
        return value + LEXICAL_SHARE * (lexical + losses.dense(left, right, same))

    words, head = student.embeddings.word_embeddings.weight, list(student.classifier.parameters())
    _run(ENCODER, student, [list(student.encoder.parameters()), [words], head], loss, out)
    return student


def train(pairs: Path, tokenizer: Path, pieces: Path, out: Path) -> Student:
    """All stages; `out` keeps their states."""
    torch.manual_seed(0)
    batches = Batches(pairs, tokenizer)
    student = train_encoder(batches, train_static(batches, pieces, out), out)
    return student.eval()
