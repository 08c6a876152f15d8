"""TODO"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from ..arrays import Float32
from .batch import Batch

if TYPE_CHECKING:
    pass

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
    """Runs one batch at a time for each caller. The engine knows nothing else about the device."""

    workers: int
    """Runs that may go on at the same time, each on one processor."""

    def run(self, batch: Batch, share: Share = "any", party: object = None, *, states: bool = False) -> Outputs:
        """Raises EngineError and its kinds. `party` names runs that are to be stopped together, `states` asks for `token_states`."""

    def stop(self, party: object) -> None:
        """Stop the runs of a party; they raise Cancelled."""

    def close(self) -> None:
        """Stop what runs and give memory back. Further runs raise Cancelled."""
