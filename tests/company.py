"""What the property tests ask of a row that was computed in company."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gte_runtime import Embedder, Reranker

MARGIN = 10
"""The difference of a machine is measured with a few texts; others may lie so many times further apart."""


def assert_as_alone(engine: Embedder | Reranker, found: ArrayLike, alone: ArrayLike) -> None:
    """The same bits; where a kernel of this machine breaks that, within the difference that was measured when the engine opened."""
    if engine.info["batch_invariant"]:
        np.testing.assert_array_equal(found, alone)
    else:
        allowed = MARGIN * engine.info["batch_difference"]
        np.testing.assert_allclose(found, alone, rtol=allowed, atol=allowed)


def assert_weights_as_alone(engine: Embedder, found: dict[int, float], alone: dict[int, float]) -> None:
    """The same for sparse weights by token id: one that is absent counts as zero."""
    if engine.info["batch_invariant"]:
        assert found == alone
        return
    keys: list[Any] = sorted(found.keys() | alone.keys())
    assert_as_alone(engine, [found.get(key, 0.0) for key in keys], [alone.get(key, 0.0) for key in keys])
