"""The protocol between the engine and a device: one batch in, its outputs back. `device/` implements it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ..arrays import Float32, Int64
from .batch import Batch

Share = Literal["one", "any", "all", "extra"]
"""How many processors a run gets.

"one": one. "any": all if they are free, otherwise one. "all": all, after waiting for them. "extra": one that
other runs use too, for a short run that must not wait for long ones."""

NOTHING: Float32 = np.zeros(0, np.float32)
"""For outputs that a graph does not give, or that were not fetched."""


class Expansion(NamedTuple):
    """The sparse vector of one text over the whole vocabulary."""

    ids: Int64
    """Entries with a weight above 0, ascending, [k]."""
    weights: Float32
    """[k]."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of a run of B texts with T tokens in all, float32."""

    cls: Float32
    """States of the first tokens after the last layer, [B, H], not normalised; empty for a reranker. A
    `pooling.PooledSession` puts the vectors of the pooling and of the layers after it here, [B, dim]."""
    token_weights: Float32
    """Sparse weights of all tokens after ReLU, [T]; empty for a reranker."""
    logits: Float32 = field(default_factory=lambda: NOTHING)
    """Raw scores of a reranker, [B]; empty for other models."""
    token_states: Float32 = field(default_factory=lambda: NOTHING)
    """States of all tokens after the last layer, [T, H]; empty unless they were requested."""
    expansions: tuple[Expansion, ...] = ()
    """Of each text, [B], in a model with a masked-language-model head; empty for others."""


class Session(Protocol):
    """Runs batches. This is all that the engine knows about a device. Safe to use from several threads."""

    provider: str
    """"cpu", "cuda" or "tensorrt"."""
    workers: int
    """How many runs can go on at the same time: the number of processors, or of GPUs."""

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        """Run a batch and wait for its outputs.

        Args:
            batch: the texts.
            share: how many processors the run gets. Without effect on GPUs.
            owner: any object that identifies the caller, for `stop`.
            states: fetch `token_states` too.

        Raises:
            Cancelled: the run was stopped, or the session is closed.
            OutOfMemory: even a single text does not fit.
            EngineError: the run failed otherwise.
        """

    def stop(self, owner: object) -> None:
        """Stop all runs of an owner. They raise Cancelled."""

    def close(self) -> None:
        """Stop all runs and release the memory. Later runs raise Cancelled."""
