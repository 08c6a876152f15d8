"""Whether a text gets the same bits alone and in company: here, with this ONNX Runtime.

The planner does its part (`batching`), but kernels have the last word: one that goes another way
about a product of few rows rounds its sums in another order. So it is measured, with texts of few and
of more tokens, alone and together, on all processors and on one, and remembered for the bundle, the
processor, the number of threads and the version of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..format.manifest import LOGITS, Variant
from ..inference.batch import make_batch
from ..inference.session import Session, Share
from ..scoring import cut_and_normalise

Ids = NDArray[np.int64]

LENGTHS = (2, 3, 5, 8, 13, 21, 34)
"""Tokens of the texts. The first is the fewest a text can have; kernels with a way of their own for few rows have it below some twenty."""


@dataclass(frozen=True, slots=True)
class Invariance:
    """What holds for one variant here."""

    promised: bool
    """The variant is made for equal bits."""
    difference: float | None
    """Largest Euclidean distance of a normalised vector to that of the text alone (of a reranker's score and of token weights the
    difference, as a share of what is above 1); 0.0 where all bits agree, None where it was not measured."""

    def facts(self) -> dict[str, bool | float | None]:
        """As `info` shows it."""
        return {
            "batch_invariant": self.promised and self.difference == 0,
            "batch_difference": self.difference,
        }


def measure(session: Session, variant: Variant, ids: Sequence[int]) -> float:
    """The difference of `Invariance`: run texts alone and in company and compare.

    Args:
        session: of the variant.
        variant: what it promises.
        ids: tokens to make the texts of.
    """
    texts = [
        np.resize(np.asarray(ids, np.int64), length) for length in LENGTHS if length < variant.flash_from
    ]
    largest = _largest(session, variant, texts, _companies(len(texts)))
    if variant.batch == "ragged":
        equal = [np.resize(np.asarray(ids, np.int64)[::step], variant.flash_from) for step in (1, -1)]
        largest = max(largest, _largest(session, variant, equal, [([0, 1], "one")]))
    return largest


def _companies(count: int) -> list[tuple[list[int], Share]]:
    """Which texts run together and on how many processors."""
    return [(list(range(count)), "all"), (list(range(count))[::-1], "one"), ([0, count - 1, 0], "one")]


def _largest(
    session: Session, variant: Variant, texts: Sequence[Ids], companies: Iterable[tuple[list[int], Share]]
) -> float:
    alone = [_rows(session, variant, [text], "all")[0] for text in texts]
    return max(
        _difference(variant, alone[i], row)
        for company, share in companies
        for i, row in zip(company, _rows(session, variant, [texts[i] for i in company], share), strict=True)
    )


Row = tuple[NDArray[np.float32], NDArray[np.float32]]
"""State and token weights of an embedding model; score and nothing of a reranker."""


def _rows(session: Session, variant: Variant, texts: Sequence[Ids], share: Share) -> list[Row]:
    batch = make_batch(np.arange(len(texts)), texts, variant.flash_from)
    outputs = session.run(batch, share)
    if variant.outputs == LOGITS:
        return [(logit, logit[:0]) for logit in outputs.logits[:, None]]
    return list(zip(outputs.cls, np.split(outputs.token_weights, batch.cu_seqlens[1:-1]), strict=True))


def _difference(variant: Variant, alone: Row, together: Row) -> float:
    if all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True)):
        return 0.0
    states = [
        row[0] if variant.outputs == LOGITS else cut_and_normalise(row[0][None])[0]
        for row in (alone, together)
    ]
    scale = max(1.0, float(np.abs(alone[0]).max())) if variant.outputs == LOGITS else 1.0
    apart = float(np.linalg.norm(states[0] - states[1])) / scale
    weights = np.abs(alone[1] - together[1]).max(initial=0.0) / max(
        1.0, float(np.abs(alone[1]).max(initial=0.0))
    )
    return max(apart, float(weights), float(np.finfo(np.float32).tiny))
