"""From the states of a text's tokens to its vector: the pooling, and layers after it.

Every text is pooled by itself, in an order of operations that its own length decides, so the result has the
same bits in every batch. That is why the layers multiply one vector at a time and do not use BLAS, whose
kernels depend on the number of rows: 1.1 ms a text for 1024 x 1024, on one processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..arrays import Float32, Float64, all_finite
from ..errors import BundleError
from ..format.manifest import DenseRecord, Manifest
from .batch import Batch
from .session import Outputs, Session, Share

BLOCK = 64
"""Rows that are added in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A linear layer and its activation."""

    weight: Float32
    """[outputs, inputs]."""
    bias: Float32
    """[outputs]."""
    activation: str
    """One of `manifest.ACTIVATIONS`."""

    @classmethod
    def read(cls, record: DenseRecord, data: bytes) -> Layer:
        """A layer from its file in a bundle, whose size the manifest's checks have compared.

        Raises:
            BundleError: a value is NaN or infinite.
        """
        values = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
        if not all_finite(values):
            raise BundleError(
                f"{record.file} holds NaN or infinity; build the bundle again from an undamaged checkpoint"
            )
        split = record.outputs * record.inputs
        return cls(values[:split].reshape(record.outputs, record.inputs), values[split:], record.activation)

    def __call__(self, vector: Float32) -> Float32:
        """activation(W v + b), float32 [outputs]."""
        product = np.einsum("oi,i->o", self.weight, vector)
        result: Float32 = _ACTIVATIONS[self.activation](product + self.bias).astype(np.float32)
        return result


def pool(states: Float32, mode: str) -> Float32:
    """One vector of the states of a text's n tokens, special tokens included.

    The formulas are those of sentence-transformers' Pooling module for a text without padding.

    Args:
        states: [n, H].
        mode: one of `manifest.POOLINGS`.

    Returns:
        float32 [H].
    """
    count = len(states)
    if mode in ("cls", "lasttoken"):
        row: Float32 = states[0 if mode == "cls" else -1]
        return row
    if mode == "max":
        largest: Float32 = states.max(axis=0)
        return largest
    if mode == "weightedmean":  # the n-th token counts n times
        weights = np.arange(1, count + 1, dtype=np.float32)
        total = _sum(states * weights[:, None]) / (count * (count + 1) / 2)
    else:
        total = _sum(states) / (count if mode == "mean" else np.sqrt(count))
    pooled: Float32 = total.astype(np.float32)
    return pooled


def _sum(states: Float32) -> Float64:
    """The sum over the first axis: of BLOCK rows in float32, of these sums in float64. So its rounding error
    does not grow with the length, in a fraction of the time of a sum in float64."""
    total = np.zeros(states.shape[1])
    for start in range(0, len(states), BLOCK):
        total += states[start : start + BLOCK].sum(axis=0)
    return total


class PooledSession:
    """A session whose `cls` is the pooled vector of each text, [B, dim]. All else is the inner session's."""

    def __init__(self, inner: Session, modes: Sequence[str], layers: Sequence[Layer] = ()) -> None:
        self.inner = inner
        self.provider = inner.provider
        self.workers = inner.workers
        self._modes = tuple(modes)
        self._layers = tuple(layers)

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        every = self._modes != ("cls",)
        outputs = self.inner.run(batch, share, owner, states=states or every)
        if every:
            texts = np.split(outputs.token_states, batch.cu_seqlens[1:-1])
            pooled = [np.concatenate([pool(text, mode) for mode in self._modes]) for text in texts]
        else:
            pooled = list(outputs.cls)
        for layer in self._layers:
            pooled = [layer(vector) for vector in pooled]
        kept = outputs if states or not every else replace(outputs, token_states=outputs.token_states[:0])
        return replace(kept, cls=np.stack(pooled))

    def stop(self, owner: object) -> None:
        self.inner.stop(owner)

    def close(self) -> None:
        self.inner.close()


def with_pooling(session: Session, manifest: Manifest, read: Callable[[str], bytes]) -> Session:
    """The session with what the manifest puts after the encoder; itself where that is nothing.

    Args:
        session: runs the encoder.
        manifest: of the bundle.
        read: from the name of a file of the bundle to its bytes.
    """
    if not (manifest.needs_states or manifest.dense):
        return session
    layers = [Layer.read(record, read(record.file)) for record in manifest.dense]
    return PooledSession(session, manifest.pooling, layers)


def _sigmoid(x: Float32) -> Float32:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), np.float32)  # overflows for no x


_ACTIVATIONS: dict[str, Callable[[Float32], Float32]] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid,
}
