"""Sessions for tests: one changes a real session's outputs, one computes its outputs from ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gte_runtime import Embedder
from gte_runtime.arrays import Float32, Int64
from gte_runtime.errors import EngineError
from gte_runtime.inference.batch import Batch
from gte_runtime.inference.engine import Engine
from gte_runtime.inference.plan import Budget
from gte_runtime.inference.session import NOTHING, Outputs, Session, Share

Change = Callable[[Batch, Outputs], Outputs]


class Around:
    """A real session whose outputs go through `change`; counts its runs and the texts of each."""

    def __init__(self, session: Session, change: Change = lambda batch, outputs: outputs) -> None:
        self.session, self.change = session, change
        self.provider, self.workers = session.provider, session.workers
        self.texts_of_runs: list[int] = []

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        self.texts_of_runs.append(len(batch.rows))
        return self.change(batch, self.session.run(batch, share, owner, states=states))

    def stop(self, owner: object) -> None:
        self.session.stop(owner)

    def close(self) -> None:
        self.session.close()


def poisoned(session: Session, token: int) -> Around:
    """NaN in the states of texts whose first token after `<s>` is this one."""

    def poison(batch: Batch, outputs: Outputs) -> Outputs:
        for row, start in enumerate(batch.cu_seqlens[:-1]):
            if batch.input_ids[start + 1] == token:
                outputs.cls[row, 3] = np.nan
        return outputs

    return Around(session, poison)


def on_session(gte: Embedder, session: Session, budget: Budget | None = None) -> Embedder:
    """The same embedder on another session."""
    return Embedder(gte.manifest, gte.tokenizer, Engine(session, gte.engine.variant, gte.dim, budget=budget))


class FromIds:
    """A session without a model: what a text gets is computed from its ids, so every result is known
    beforehand.
    """

    width = 4

    def __init__(self, provider: str = "cpu", workers: int = 1, *, logits: bool = False) -> None:
        self.provider, self.workers, self.logits = provider, workers, logits
        self.runs: list[tuple[list[list[int]], Share, object, bool]] = []
        """(ids of each text, share, owner, states) of every run."""
        self.failures: dict[int, EngineError] = {}
        """Raised by every run that has a text with this id."""
        self.stopped: list[object] = []
        self.closed = False

    def cls(self, ids: Sequence[int] | Int64) -> Float32:
        values = np.asarray(ids, np.float32)
        return np.array([values[0], values[-1], len(values), values.sum()], np.float32)

    def weights(self, ids: Sequence[int] | Int64) -> Float32:
        return np.asarray(ids, np.float32) / np.float32(8)

    def states(self, ids: Sequence[int] | Int64) -> Float32:
        states = np.asarray(ids, np.float32)[:, None] + np.arange(self.width, dtype=np.float32)
        return states.astype(np.float32)

    def logit(self, ids: Sequence[int] | Int64) -> float:
        return float(np.asarray(ids).sum()) - 10.0

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        texts = np.split(batch.input_ids, batch.cu_seqlens[1:-1])
        self.runs.append(([text.tolist() for text in texts], share, owner, states))
        for text in texts:
            for token in text.tolist():
                if token in self.failures:
                    raise self.failures[token]
        if self.logits:
            return Outputs(NOTHING, NOTHING, np.array([self.logit(text) for text in texts], np.float32))
        return Outputs(
            np.stack([self.cls(text) for text in texts]),
            np.concatenate([self.weights(text) for text in texts]),
            token_states=np.concatenate([self.states(text) for text in texts]) if states else NOTHING,
        )

    def stop(self, owner: object) -> None:
        self.stopped.append(owner)

    def close(self) -> None:
        self.closed = True
