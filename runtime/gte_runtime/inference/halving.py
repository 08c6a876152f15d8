"""Runs a batch and, where that fails, its halves, down to single texts. Pure but for the run itself.

There are two uses. A batch that does not fit into a GPU's memory is run in parts that do. And where one text
makes a batch fail, the other texts still get their results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from ..errors import EngineError
from .batch import Batch, halves
from .session import Outputs

Run = Callable[[Batch, bool], Outputs]
"""(batch, whether it is a part of one that failed) -> outputs."""


def run_halved(
    run: Run, batch: Batch, halve_on: Callable[[EngineError], bool]
) -> Iterator[tuple[Batch, Outputs | EngineError]]:
    """The parts in which a batch ran, in its order; the error in place of outputs where a single text failed.

    A part runs when it is asked for: a caller that stops at an error runs nothing after it.

    Args:
        run: one batch.
        batch: the texts.
        halve_on: whether halves may fare better after this error. Where not, it is the outcome of the whole
            part.
    """
    return _run(run, batch, halve_on, False)


def _run(
    run: Run, batch: Batch, halve_on: Callable[[EngineError], bool], part: bool
) -> Iterator[tuple[Batch, Outputs | EngineError]]:
    outcome: Outputs | EngineError
    try:
        outcome = run(batch, part)
    except EngineError as error:
        outcome = error
    if isinstance(outcome, EngineError) and len(batch.rows) > 1 and halve_on(outcome):
        for half in halves(batch):
            yield from _run(run, half, halve_on, True)
    else:
        yield batch, outcome


def joined(parts: Sequence[Outputs]) -> Outputs:
    """Outputs of batches that follow one another, as those of one."""
    arrays: dict[str, Any] = {
        each.name: np.concatenate([getattr(part, each.name) for part in parts])
        for each in fields(Outputs)
        if each.name != "expansions"
    }
    return Outputs(**arrays, expansions=tuple(one for part in parts for one in part.expansions))


def all_or_error(parts: Iterable[tuple[Batch, Outputs | EngineError]]) -> Outputs:
    """The joined outputs. Raises the first error instead, if there is one, and takes no part after it."""
    outputs = []
    for _, outcome in parts:
        if isinstance(outcome, EngineError):
            raise outcome
        outputs.append(outcome)
    return joined(outputs)
