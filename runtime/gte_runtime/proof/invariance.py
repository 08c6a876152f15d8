"""Measures batch invariance: whether a text gets the same bits alone and in any batch.

`inference.plan` never lets other texts change how a text is computed. But a kernel may compute a product of
few rows in another way than one of many, and then sums are rounded in another order. So batch invariance is
measured on the machine: texts of few and of more tokens run alone and in batches, on all processors and on
one. The result holds for this bundle, processor, number of threads and version of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import SelfCheckFailed
from ..format.manifest import LOGITS, Variant
from ..inference.batch import make_batch
from ..inference.session import Session, Share
from ..scoring import cut_and_normalise

Ids = NDArray[np.int64]

LENGTHS = (2, 3, 5, 8, 13, 21, 34)
"""Tokens of the texts. 2 is the fewest a text can have; kernels that treat few rows differently do so below
about 20 rows."""


@dataclass(frozen=True, slots=True)
class Invariance:
    """Batch invariance of one variant on this machine."""

    promised: bool
    """The variant is made to be batch-invariant."""
    difference: float | None
    """How far results in a batch differ at most from those of the text alone; 0.0 where all bits agree, None
    where it was not measured.

    For normalised vectors it is the Euclidean distance. For token weights and for the scores of a reranker it
    is the difference, divided by the largest value where that is above 1."""

    def as_info(self) -> dict[str, bool | float | None]:
        """The two entries of `Embedder.info`."""
        return {
            "batch_invariant": self.promised and self.difference == 0,
            "batch_difference": self.difference,
        }


def measure(session: Session, variant: Variant, ids: Sequence[int]) -> float:
    """Run texts alone and in batches and compare: the value of `Invariance.difference`.

    Args:
        session: runs the variant.
        variant: what the manifest promises about the graph.
        ids: token ids to make texts from.
    """
    texts = [
        np.resize(np.asarray(ids, np.int64), length) for length in LENGTHS if length < variant.flash_from
    ]
    largest = _largest(session, variant, texts, _batches(len(texts)))
    if variant.batch == "ragged":
        equal = [np.resize(np.asarray(ids, np.int64)[::step], variant.flash_from) for step in (1, -1)]
        largest = max(largest, _largest(session, variant, equal, [([0, 1], "one")]))
    return largest


def _batches(count: int) -> list[tuple[list[int], Share]]:
    """Which of `count` texts run together, and on how many processors."""
    return [(list(range(count)), "all"), (list(range(count))[::-1], "one"), ([0, count - 1, 0], "one")]


def _largest(
    session: Session, variant: Variant, texts: Sequence[Ids], batches: Iterable[tuple[list[int], Share]]
) -> float:
    alone = [_rows(session, variant, [text], "all")[0] for text in texts]
    return max(
        _difference(variant, alone[i], row)
        for chosen, share in batches
        for i, row in zip(chosen, _rows(session, variant, [texts[i] for i in chosen], share), strict=True)
    )


Row = tuple[NDArray[np.float32], NDArray[np.float32]]
"""(state, token weights) of a text, or (score, nothing) of a pair."""


def _rows(session: Session, variant: Variant, texts: Sequence[Ids], share: Share) -> list[Row]:
    batch = make_batch(np.arange(len(texts)), texts, variant.flash_from)
    outputs = session.run(batch, share)
    if variant.outputs == LOGITS:
        return [(logit, logit[:0]) for logit in outputs.logits[:, None]]
    return list(zip(outputs.cls, np.split(outputs.token_weights, batch.cu_seqlens[1:-1]), strict=True))


def _difference(variant: Variant, alone: Row, together: Row) -> float:
    if not all(np.isfinite(values).all() for row in (alone, together) for values in row):
        raise SelfCheckFailed(
            "a text of the measurement of batch invariance gave a result that is not finite; "
            "the weights or the graph are damaged. Build the bundle again"
        )
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
