"""The engine: token ids in, model states out.

It plans which texts run together, runs them, puts the results back in input order and checks that they are
finite. The embedder, the reranker and the server are written on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..arrays import Bool, Float32, Int64
from ..errors import Cancelled, EngineError, ForkedProcessError, GteError, NonFiniteOutputError, NoThread
from ..format.manifest import LOGITS, STATES, Variant
from .batch import Batch, make_batch
from .cost import Cost
from .halving import run_halved
from .plan import Budget, Plan, plan_runs
from .session import Outputs, Session, Share
from .side_by_side import run_all

PACKED_BUDGET = Budget(max_tokens=32768)
"""Of a run of a packed graph, whose attention stores no scores: 0.6 GB of activations for
gte-multilingual-base.

On an H100 runs of twice as many tokens are 0 to 5 % faster, of half as many 5 to 9 % slower
(docs/decisions/packed-graphs.md)."""

NO_IDS: Int64 = np.zeros(0, np.int64)

Lap = Callable[[str], None]
"""Called when a stage of a call ends, with its name: "plan", "run" or "collect"."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The model's results for one text of n tokens, special tokens included, or for one pair.

    A reranker has only `logit`; an embedding model has the rest.
    """

    cls: Float32
    """State of the first token after the last layer, [dim], not normalised; with another pooling, its
    vector."""
    token_weights: Float32
    """Sparse weights of the tokens after ReLU, [n]."""
    token_states: Float32 | None = None
    """States of the tokens after the last layer, [n, H]; None unless they were requested."""
    logit: float = 0.0
    """Raw score of a pair, unbounded."""
    token_ids: Int64 | None = None
    """The entries of the vocabulary to which `token_weights` belong, in a model that expands texts; None
    where they belong to the tokens of the text."""


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """The model's results for N texts or pairs, in input order: `State`, row by row. For a reranker all but
    `logits` is empty."""

    cls: Float32
    """[N, dim], not normalised."""
    token_weights: list[Float32]
    """N arrays, [n] for a text of n tokens."""
    token_states: list[Float32] = field(default_factory=list)
    """N arrays, [n, H] for a text of n tokens; empty unless they were requested."""
    logits: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    """Raw scores, [N]; empty for an embedding model."""
    token_ids: list[Int64] = field(default_factory=list)
    """N arrays; see `State`. Empty for a model that does not expand texts."""

    def __len__(self) -> int:
        return len(self.token_weights) or len(self.logits)

    def __getitem__(self, row: int) -> State:
        return State(
            self.cls[row] if len(self.cls) else self.cls,
            self.token_weights[row] if self.token_weights else np.zeros(0, np.float32),
            self.token_states[row] if self.token_states else None,
            float(self.logits[row]) if len(self.logits) else 0.0,
            self.token_ids[row] if self.token_ids else None,
        )

    def finite(self) -> Bool:
        """Which texts have usable results, [N]: all values are finite, and `cls` is not a zero vector, which
        has no direction."""
        if not self.token_weights:
            return np.isfinite(self.logits)
        good: Bool = np.asarray(np.isfinite(self.cls).all(axis=1) & self.cls.any(axis=1))
        for arrays in (self.token_weights, self.token_states):
            if arrays:
                good &= np.array([np.isfinite(values).all() for values in arrays], np.bool_)
        return good

    def rows(self, rows: Int64) -> States:
        """The results of some texts, in the order of `rows`."""
        chosen = rows.tolist()
        return States(
            self.cls[rows] if len(self.cls) else self.cls,
            [self.token_weights[row] for row in chosen] if self.token_weights else [],
            [self.token_states[row] for row in chosen] if self.token_states else [],
            self.logits[rows] if len(self.logits) else self.logits,
            [self.token_ids[row] for row in chosen] if self.token_ids else [],
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
            variant: what the manifest says about the graph.
            width: values of a vector that is not cut.
            budget: limits of one run; the default depends on the variant.
            cost: of runs on a CPU, for the planner.
        """
        self.session = session
        self.variant = variant
        self.width = width
        self.budget = budget or (PACKED_BUDGET if variant.batch == "packed" else Budget())
        self.cost = cost

    @property
    def workers(self) -> int:
        """How many runs can go on at the same time."""
        return self.session.workers

    @property
    def gives_token_states(self) -> bool:
        """Whether the graph can give the states of all tokens. In bundles built before 2026-11-27 it
        cannot."""
        return self.variant.outputs == STATES

    def plan(self, lengths: Sequence[int]) -> Plan:
        """Which of these texts run together, by the number of tokens of each."""
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
            token_states: return the states of all tokens too: 25 MB for a text of 8192 tokens and H = 768.
            done: called after each run with its number of texts.
            lap: called when a stage ends.

        Raises:
            NonFiniteOutputError: with the index of the first text whose results are not usable.
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
        """`run` without the check that results are finite, for callers that use `States.finite` to leave
        single texts out."""
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
        """Run texts as one batch, for callers that schedule runs themselves, as the server does.

        A batch that fails is halved until each text that fails is alone; the others get their results.

        Args:
            ids: token ids of each text. They must be grouped as a plan does it: in a ragged graph, texts of
                `flash_from` tokens or more run only with texts of the same length.
            share: how many processors the run gets.
            owner: any object that identifies the caller, for `stop`.
            token_states: return the states of all tokens too.

        Returns:
            For each text its state, or its error.
        """
        batch = make_batch(np.arange(len(ids)), ids, self.variant.flash_from)

        def run(part: Batch, halved: bool) -> Outputs:
            return self.session.run(part, share, owner, states=token_states)

        outcomes: list[State | GteError] = []
        for part, outcome in run_halved(run, batch, _halving_may_help):
            if isinstance(outcome, EngineError):
                outcomes += [outcome] * len(part.rows)
                continue
            states = self._empty(len(part.rows), token_states)
            _put(states, range(len(part.rows)), part, outcome)
            for row, finite in enumerate(states.finite().tolist()):
                outcomes.append(states[row] if finite else NonFiniteOutputError(int(part.rows[row])))
        return outcomes

    def stop(self, owner: object) -> None:
        """Stop all runs of an owner. They raise Cancelled."""
        self.session.stop(owner)

    def close(self) -> None:
        """Stop all runs and release the memory. Later runs raise Cancelled."""
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
    """Write the outputs of a batch to the rows of its texts."""
    if len(states.logits):
        states.logits[rows] = outputs.logits
        return
    states.cls[rows] = outputs.cls
    bounds = batch.cu_seqlens[1:-1]
    for row, weights in zip(rows, np.split(outputs.token_weights, bounds), strict=True):
        states.token_weights[row] = weights
    for row, expansion in zip(rows, outputs.expansions, strict=False):
        if not states.token_ids:
            states.token_ids.extend([NO_IDS] * len(states.token_weights))
        states.token_ids[row], states.token_weights[row] = expansion
    if states.token_states:
        for row, vectors in zip(rows, np.split(outputs.token_states, bounds), strict=True):
            states.token_states[row] = vectors


def _halving_may_help(error: EngineError) -> bool:
    """Not after a run that was stopped on purpose, nor in a forked process or without threads, where no run
    succeeds."""
    return not isinstance(error, (Cancelled, ForkedProcessError, NoThread))
