"""The engine: token ids in, model states out.

It plans which texts run together, runs them side by side, puts the results back in input order and refuses those that are not
finite. A failing text fails alone. Everything that embeds, scores or serves is written on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..arrays import Bool, Float32, Int64
from ..errors import Cancelled, EngineError, ForkedProcessError, GteError, NonFiniteOutputError
from ..format.manifest import LOGITS, STATES, Variant
from .batch import Batch, make_batch
from .cost import Cost
from .halving import run_halved
from .plan import Budget, Plan, plan_runs
from .session import Outputs, Session, Share
from .side_by_side import run_all

PACKED_BUDGET = Budget(max_tokens=32768)
"""Of a run on a GPU: 0.6 GB of activations for gte-multilingual-base. Attention holds no scores there.

On an H100 twice as many tokens a run are 0 to 5 % faster, half as many 5 to 9 % slower (benchmarks/NOTES-gpu.md)."""

Lap = Callable[[str], None]
"""Told when a stage of a call ends: "plan", "run" or "collect"."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the model gives for one text or pair. A reranker gives `logit` alone, an embedding model the rest."""

    cls: Float32
    """State of the first token after the last layer, [H], not normalised."""
    token_weights: Float32
    """Sparse weights of its n tokens after ReLU, special tokens included, [n]."""
    token_states: Float32 | None = None
    """States of its tokens after the last layer, [n, H]; None unless asked for."""
    logit: float = 0.0
    """The score of a pair, without bounds."""


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """What the model gives for N texts or pairs, in input order. Of a reranker only `logits` holds values."""

    cls: Float32
    """[N, H], not normalised."""
    token_weights: list[Float32]
    """N arrays, [n] for a text of n tokens."""
    token_states: list[Float32] = field(default_factory=list)
    """N arrays, [n, H] for a text of n tokens; empty unless asked for."""
    logits: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    """[N]."""

    def __len__(self) -> int:
        return len(self.token_weights) or len(self.logits)

    def __getitem__(self, row: int) -> State:
        return State(
            self.cls[row] if len(self.cls) else self.cls,
            self.token_weights[row] if self.token_weights else np.zeros(0, np.float32),
            self.token_states[row] if self.token_states else None,
            float(self.logits[row]) if len(self.logits) else 0.0,
        )

    def finite(self) -> Bool:
        """[N]: whether all values of a text are finite. A zero vector has no direction, so it counts as not finite."""
        if not self.token_weights:
            return np.isfinite(self.logits)
        good: Bool = np.asarray(np.isfinite(self.cls).all(axis=1) & self.cls.any(axis=1))
        for arrays in (self.token_weights, self.token_states):
            if arrays:
                good &= np.array([np.isfinite(values).all() for values in arrays], np.bool_)
        return good

    def rows(self, rows: Int64) -> States:
        """Those of some texts, in the order of `rows`."""
        chosen = rows.tolist()
        return States(
            self.cls[rows] if len(self.cls) else self.cls,
            [self.token_weights[row] for row in chosen] if self.token_weights else [],
            [self.token_states[row] for row in chosen] if self.token_states else [],
            self.logits[rows] if len(self.logits) else self.logits,
        )


class Engine:
    """One model on one device. Safe to use from several threads."""

    def __init__(
        self,
        session: Session,
        variant: Variant,
        width: int,
        *,
        budget: Budget | None = None,
        cost: Cost = Cost(),
    ) -> None:
        """Put an engine together.

        Args:
            session: runs batches.
            variant: how texts of one run are laid out, and what the graph gives.
            width: values of a state, H.
            budget: tokens and attention scores of one run; by default what suits the variant.
            cost: of runs, for the planner.
        """
        self.session = session
        self.variant = variant
        self.width = width
        self.budget = budget or (PACKED_BUDGET if variant.batch == "packed" else Budget())
        self.cost = cost

    @property
    def workers(self) -> int:
        """Runs that may go on at the same time."""
        return self.session.workers

    @property
    def gives_token_states(self) -> bool:
        """The graph can give the states of all tokens. Graphs of bundles built before 2026-11-27 cannot."""
        return self.variant.outputs == STATES

    def plan(self, lengths: Sequence[int]) -> Plan:
        """Which texts, of so many tokens each, run together."""
        return plan_runs(
            lengths, self.variant, self.budget, self.workers, self.cost, on_cpu=self.session.provider == "cpu"
        )

    def run(
        self,
        ids: Sequence[Int64],
        *,
        token_states: bool = False,
        done: Callable[[int], object] = lambda count: None,
        lap: Lap = lambda stage: None,
    ) -> States:
        """Run any number of texts.

        Args:
            ids: token ids of each text, [n], special tokens included.
            token_states: give the states of all tokens: 25 MB for a text of 8192 tokens at a width of 768.
            done: told how many texts are done, as runs end.
            lap: told when a stage ends.

        Raises:
            NonFiniteOutputError: with the index of the first text whose results are not finite.
            EngineError: a run failed.
        """
        states = self.run_unchecked(ids, token_states=token_states, done=done, lap=lap)
        finite = states.finite()
        if not finite.all():
            raise NonFiniteOutputError(
                int(np.flatnonzero(~finite)[0]), "pairs" if self.variant.outputs == LOGITS else "texts"
            )
        return states

    def run_unchecked(
        self,
        ids: Sequence[Int64],
        *,
        token_states: bool = False,
        done: Callable[[int], object] = lambda count: None,
        lap: Lap = lambda stage: None,
    ) -> States:
        """`run` without the check: for callers that ask `States.finite` and go on with the texts that are."""
        plan = self.plan([len(one) for one in ids])
        batches = [partial(make_batch, rows, ids, self.variant.flash_from) for rows in plan.groups]
        states = self._empty(len(ids), token_states)
        lap("plan")
        for index, batch, outputs in run_all(self.session, batches, plan.on_all, states=token_states):
            lap("run")
            _put(states, plan.groups[index].tolist(), batch, outputs)
            done(len(plan.groups[index]))
            lap("collect")
        return states

    def run_batch(
        self, ids: Sequence[Int64], share: Share = "any", owner: object = None, *, token_states: bool = False
    ) -> list[State | GteError]:
        """Run texts of one planned group in one run: for hosts that schedule runs themselves, as the server does.

        A batch that fails is halved until the texts that fail are alone. A failing text has its error in the list.

        Args:
            ids: token ids of each text. Of texts that a plan did not put together, results may depend on the others.
            share: how many processors the run gets.
            owner: whose run it is, for `stop`.
            token_states: give the states of all tokens.
        """
        batch = make_batch(np.arange(len(ids)), ids, self.variant.flash_from)

        def run(part: Batch, halved: bool) -> Outputs:
            return self.session.run(part, share, owner, states=token_states)

        outcomes: list[State | GteError] = []
        for part, outcome in run_halved(run, batch, _may_be_one_texts_fault):
            if isinstance(outcome, EngineError):
                outcomes += [outcome] * len(part.rows)
                continue
            states = self._empty(len(part.rows), token_states)
            _put(states, range(len(part.rows)), part, outcome)
            for row, finite in enumerate(states.finite().tolist()):
                outcomes.append(states[row] if finite else NonFiniteOutputError(int(part.rows[row])))
        return outcomes

    def stop(self, owner: object) -> None:
        """Stop the runs of an owner; they raise Cancelled."""
        self.session.stop(owner)

    def close(self) -> None:
        """Stop what runs and give memory back. Further runs raise Cancelled."""
        self.session.close()

    def _empty(self, count: int, token_states: bool) -> States:
        if self.variant.outputs == LOGITS:
            return States(np.zeros((0, self.width), np.float32), [], [], np.zeros(count, np.float32))
        weights = [np.zeros(0, np.float32)] * count
        return States(
            np.zeros((count, self.width), np.float32),
            weights,
            [np.zeros((0, self.width), np.float32)] * count if token_states else [],
        )


def _put(states: States, rows: Sequence[int], batch: Batch, outputs: Outputs) -> None:
    """Put the outputs of a batch into the places of its texts."""
    if len(states.logits):
        states.logits[rows] = outputs.logits
        return
    states.cls[rows] = outputs.cls
    bounds = batch.cu_seqlens[1:-1]
    for row, weights in zip(rows, np.split(outputs.token_weights, bounds), strict=True):
        states.token_weights[row] = weights
    if states.token_states:
        for row, vectors in zip(rows, np.split(outputs.token_states, bounds), strict=True):
            states.token_states[row] = vectors


def _may_be_one_texts_fault(error: EngineError) -> bool:
    """Not where whoever runs the engine stopped the run, or where no run can succeed."""
    return not isinstance(error, (Cancelled, ForkedProcessError))
