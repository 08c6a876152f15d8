"""Comparing the results of a text that ran alone with those of the same text in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gte_runtime import Embedder, Reranker

MARGIN = 10
"""The difference of a machine is measured with a few texts; others may lie so many times further apart."""


def assert_as_alone(model: Embedder | Reranker, found: ArrayLike, alone: ArrayLike) -> None:
    """The same bits; on a machine whose kernels break that, within the difference measured at opening."""
    if model.info["batch_invariant"]:
        np.testing.assert_array_equal(found, alone)
    else:
        allowed = MARGIN * model.info["batch_difference"]
        np.testing.assert_allclose(np.asarray(found), np.asarray(alone), rtol=allowed, atol=allowed)


def assert_weights_as_alone(model: Embedder, found: dict[int, float], alone: dict[int, float]) -> None:
    """The same for sparse weights by token id: one that is absent counts as zero."""
    if model.info["batch_invariant"]:
        assert found == alone
        return
    keys: list[Any] = sorted(found.keys() | alone.keys())
    assert_as_alone(model, [found.get(key, 0.0) for key in keys], [alone.get(key, 0.0) for key in keys])
