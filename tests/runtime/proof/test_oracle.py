"""The oracle agrees with upstream's own outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from golden import Golden
from reranking import RERANKER

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


def test_epsilon_of_the_norms(golden: Golden):
    """It is added to the variance: of a text whose channels are alike in every norm, little is left."""
    with Checkpoint(golden.checkpoint) as checkpoint:
        config = checkpoint.config
        checkpoint.config = replace(config, architecture=replace(config.architecture, layer_norm_eps=1e6))
        found = forward(checkpoint, golden.ids(0)).hidden
        last = f"layers.{config.architecture.layers - 1}.mlp_norm"
        bias = checkpoint.read(f"{last}.bias").astype(np.float64)
    assert np.isfinite(found).all()
    assert np.abs(found - bias).max() < 0.01


def test_magnitudes(golden: Golden):
    """Of each linear layer's inputs and each norm's outputs, by channel: one's are the next one's."""
    with Checkpoint(golden.checkpoint) as checkpoint:
        found = forward(checkpoint, golden.ids(0))
        layers = checkpoint.config.architecture.layers
    before = "embeddings.norm"
    for n in range(layers):
        at = f"layers.{n}"
        for part in ("query", "key", "value"):
            assert np.array_equal(found.largest[f"{at}.{part}"], found.largest[before])
        for part in ("gate", "up"):
            assert np.array_equal(found.largest[f"{at}.{part}"], found.largest[f"{at}.attention_norm"])
        before = f"{at}.mlp_norm"
    assert np.array_equal(found.largest[before], np.abs(found.hidden).max(0))
    assert np.array_equal(found.largest["token_head"], found.largest[before])
    assert found.cls.dtype == np.float64
    assert found.logit == 0.0


def test_a_reranker_has_a_logit():
    """The logit is of the first token alone, and its head's inputs are measured too."""
    with Checkpoint(RERANKER) as checkpoint:
        found = forward(checkpoint, np.array([0, 5, 6, 2]))
        pooler, logit = (
            {
                part: checkpoint.read(f"pair_head.{name}.{part}").astype(np.float64)
                for part in ("weight", "bias")
            }
            for name in ("pooler", "logit")
        )
    pooled = np.tanh(found.cls @ pooler["weight"].T + pooler["bias"])
    assert found.logit == pytest.approx(float((pooled @ logit["weight"].T + logit["bias"])[0]))
    assert np.array_equal(found.largest["pair_head.pooler"], np.abs(found.cls))
    assert np.array_equal(found.token_weights, np.zeros(4))
