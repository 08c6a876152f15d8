"""A batch that fails runs in halves: in order, down to single texts, and no further."""

from __future__ import annotations

import numpy as np
import pytest

from gte_runtime.device.cuda import (
    joined,
    run_halved,
)
from gte_runtime.errors import OutOfMemory
from gte_runtime.inference.batch import Batch, make_batch
from gte_runtime.inference.session import NOTHING, Outputs


def texts(*lengths: int) -> Batch:
    rng = np.random.default_rng(sum(lengths))
    ids = [rng.integers(4, 300, length) for length in lengths]
    return make_batch(np.arange(len(ids)), ids, 128)


def test_halving_ends():
    """A single text that does not fit is an error, and nothing is tried after it."""
    asked = []

    def never(part: Batch, owner: object, thrifty: bool) -> Outputs:
        asked.append(len(part.rows))
        raise OutOfMemory("out of memory during a run")

    for lengths, expected in (([5, 5, 5, 5], [4, 2, 1]), ([5], [1])):
        asked.clear()
        with pytest.raises(OutOfMemory):
            run_halved(never, texts(*lengths), object())
        assert asked == expected


def test_parts_are_joined_in_order():
    """Rows and token weights follow one another, and so do a reranker's scores."""
    parts = [Outputs(np.full((n, 2), n, np.float32), np.full(n * 3, n, np.float32)) for n in (1, 2)]
    assert joined(parts).cls[:, 0].tolist() == [1, 2, 2]
    assert joined(parts).token_weights.tolist() == [1] * 3 + [2] * 6
    logits = joined([Outputs(NOTHING, NOTHING, np.array(row, np.float32)) for row in ([1, 2], [3])]).logits
    assert logits.tolist() == [1, 2, 3]
