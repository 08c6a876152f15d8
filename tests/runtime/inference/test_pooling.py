"""From states of tokens to vectors: as sentence-transformers does it, and the same bits in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gte_runtime.errors import BundleError
from gte_runtime.format.manifest import ACTIVATIONS, POOLINGS, DenseRecord
from gte_runtime.inference.batch import Batch, make_batch
from gte_runtime.inference.pooling import BLOCK, Layer, PooledSession, pool
from gte_runtime.inference.session import Outputs
from gte_runtime.proof.oracle import after_encoder

EXPECTED = Path(__file__).parents[2] / "data" / "compat" / "pooling.npz"


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    with np.load(EXPECTED) as stored:
        return dict(stored)


def texts(expected: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    return np.split(expected["states"], np.cumsum(expected["lengths"])[:-1])


def layer_of(expected: dict[str, NDArray[Any]], activation: str) -> tuple[Any, Any]:
    weight = expected[f"{activation}.weight"]
    return weight, expected.get(f"{activation}.bias", np.zeros(len(weight), np.float32))


@pytest.mark.parametrize("mode", POOLINGS)
def test_poolings_are_those_of_sentence_transformers(expected: dict[str, NDArray[Any]], mode: str):
    """Their Pooling module on padded texts of 1, 2, 7 and 70 tokens; lengths of vectors included."""
    found = [pool(states, mode) for states in texts(expected)]
    np.testing.assert_allclose(found, expected[mode], rtol=2e-6, atol=1e-6)
    assert all(vector.dtype == np.float32 for vector in found)
    oracle = [after_encoder(states.astype(np.float64), (mode,), ()) for states in texts(expected)]
    np.testing.assert_allclose(oracle, expected[mode], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layers_are_those_of_sentence_transformers(expected: dict[str, NDArray[Any]], activation: str):
    """Their Dense module after the mean, with each activation, with and without a bias."""
    weight, bias = layer_of(expected, activation)
    layer = Layer(weight, bias, activation)
    found = [layer(pool(states, "mean")) for states in texts(expected)]
    np.testing.assert_allclose(found, expected[activation], rtol=1e-5, atol=1e-6)
    oracle = [
        after_encoder(states.astype(np.float64), ("mean",), [(weight, bias, activation)])
        for states in texts(expected)
    ]
    np.testing.assert_allclose(oracle, expected[activation], rtol=1e-5, atol=1e-6)


def test_a_long_text_loses_no_accuracy():
    """The sum of 8192 states is as exact as float32 can show it."""
    states = np.random.default_rng(1).normal(3, 1, (8192, 8)).astype(np.float32)
    exact = states.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(pool(states, "mean"), exact, rtol=3e-7)
    weights = np.arange(1, 8193)[:, None]
    exact = (states.astype(np.float64) * weights).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(pool(states, "weightedmean"), exact, rtol=3e-7)


class Made:
    """A session whose states follow from the ids alone."""

    provider, workers = "cpu", 1

    def __init__(self) -> None:
        self.table = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)
        self.asked: list[bool] = []

    def run(
        self, batch: Batch, share: object = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        self.asked.append(states)
        every = self.table[batch.input_ids]
        return Outputs(
            every[batch.cu_seqlens[:-1]],
            batch.input_ids.astype(np.float32),
            token_states=every if states else every[:0],
        )

    def stop(self, owner: object) -> None: ...
    def close(self) -> None: ...


LAYER = Layer(
    np.random.default_rng(3).normal(size=(5, 32)).astype(np.float32), np.ones(5, np.float32), "tanh"
)
LENGTHS = st.lists(st.integers(1, 2 * BLOCK + 3), min_size=1, max_size=6)


@given(LENGTHS, st.lists(st.sampled_from(POOLINGS), min_size=2, max_size=2, unique=True))
def test_a_text_gets_the_same_bits_in_any_batch(lengths: list[int], modes: list[str]):
    """Alone or between others, at any place."""
    session: Any = PooledSession(Made(), modes, [LAYER])
    ids = [np.arange(length, dtype=np.int64) * (n + 3) % 100 for n, length in enumerate(lengths)]
    together = session.run(make_batch(np.arange(len(ids)), ids, 10**6)).cls
    for row, one in enumerate(ids):
        assert np.array_equal(session.run(make_batch(np.arange(1), [one], 10**6)).cls[0], together[row])


def test_only_what_is_needed_is_fetched():
    """A layer after cls needs no states of tokens; a caller who wants them gets the encoder's."""
    inner = Made()
    batch = make_batch(np.arange(2), [np.array([1, 2, 3]), np.array([4, 5])], 10**6)
    layer = Layer(LAYER.weight[:, :16], LAYER.bias, "identity")
    outputs = PooledSession(inner, ("cls",), [layer]).run(batch)
    assert inner.asked == [False]
    np.testing.assert_allclose(outputs.cls, inner.table[[1, 4]] @ layer.weight.T + 1, rtol=1e-5)
    mean = PooledSession(inner, ("mean",))
    assert len(mean.run(batch).token_states) == 0
    assert np.array_equal(mean.run(batch, states=True).token_states, inner.table[[1, 2, 3, 4, 5]])
    assert inner.asked == [False, True, True]


def test_a_layer_with_nan_is_refused():
    """A bundle of unknown origin: the layer is named."""
    values = np.array([1, np.nan, 3], "<f4").tobytes()
    record = DenseRecord(file="dense-1.bin", inputs=2, outputs=1, activation="tanh")
    with pytest.raises(BundleError, match=r"dense-1.bin holds NaN"):
        Layer.read(record, values)
