"""The oracle agrees with upstream's own outputs."""

from __future__ import annotations

import numpy as np
from golden import Golden

from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.proof.oracle import forward


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute error as a share of the largest absolute value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_oracle(golden: Golden):
    """The judge itself agrees with upstream: first token, last token and weights."""
    with Checkpoint(golden.checkpoint) as checkpoint:
        for number in range(len(golden.texts)):
            found = forward(checkpoint, golden.ids(number))
            assert relative(found.cls, golden.cls()[number]) <= 5e-6
            assert relative(found.hidden[-1], golden.arrays[f"last_{number}"]) <= 5e-6
            assert relative(found.token_weights, golden.weights(number)) <= 5e-6
