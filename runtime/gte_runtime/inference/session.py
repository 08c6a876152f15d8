"""The protocol between the engine and a device: one batch in, its outputs back. `device/` implements it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from ..arrays import Float32
from .batch import Batch

Share = Literal["one", "any", "all", "extra"]
"""Of the processors, for one run: one; all if they are free and else one; all, after waiting for them; or a
share of those that others compute on, for a short run that should not wait for long ones."""

NOTHING: Float32 = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a run gives, float32."""

    cls: Float32
    """States of the first tokens, [B, H], not normalised."""
    token_weights: Float32
    """After ReLU, for all tokens of the batch in a row, [T]."""
    logits: Float32 = field(default_factory=lambda: NOTHING)
    """Of a reranker, [B]; its other two are empty."""
    token_states: Float32 = field(default_factory=lambda: NOTHING)
    """After the last layer, for all tokens of the batch in a row, [T, H]; empty unless asked for."""


class Session(Protocol):
    """Runs one batch at a time for each caller. The engine knows nothing else about a device."""

    provider: str
    """"cpu", "cuda" or "tensorrt"."""
    workers: int
    """Runs that may go on at the same time: on a CPU one for each processor, otherwise one for each device."""

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        """Run a batch.

        Args:
            batch: the texts.
            share: how many processors it gets. Of no effect on GPUs.
            owner: whose run it is, for `stop`.
            states: fetch `token_states` too.

        Raises:
            EngineError: and its kinds.
        """

    def stop(self, owner: object) -> None:
        """Stop all runs of an owner; they raise Cancelled."""

    def close(self) -> None:
        """Stop what runs and give memory back. Further runs raise Cancelled."""
