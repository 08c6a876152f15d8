"""The engine, on a session that computes every result from the ids: whatever is planned, each text gets its
own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from doubles import Around, FromIds
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.arrays import Int64
from gte_runtime.errors import Cancelled, EngineError, ForkedProcessError, NonFiniteOutputError
from gte_runtime.format.manifest import LOGITS, STATES, VECTORS, Variant
from gte_runtime.inference.batch import Batch
from gte_runtime.inference.cost import Cost
from gte_runtime.inference.engine import PACKED_BUDGET, Engine, State, States
from gte_runtime.inference.plan import Budget
from gte_runtime.inference.session import Outputs, Session

FLASH = 12
KINDS = (("ragged", "cpu"), ("padded", "cpu"), ("padded", "tensorrt"), ("packed", "cuda"))

texts = st.lists(st.lists(st.integers(1, 99), min_size=2, max_size=30), max_size=25)
budgets = st.builds(Budget, max_tokens=st.integers(1, 300), max_scores=st.integers(1, 5000)) | st.none()
machines = st.tuples(st.sampled_from(KINDS), st.sampled_from([1, 2, 5]))


def variant(batch: str = "ragged", outputs: tuple[str, ...] = STATES) -> Variant:
    return Variant(
        graph="g.onnx",
        weights=(),
        batch=batch,
        inputs=(),
        outputs=outputs,
        min_onnxruntime="1.0",
        tolerance=0.0,
        flash_from=FLASH,
    )


def engine(session: Session | None = None, batch: str = "ragged", budget: Budget | None = None) -> Engine:
    return Engine(session or FromIds(), variant(batch), FromIds.width, budget=budget)


def reranker(session: FromIds, batch: str = "ragged", budget: Budget | None = None) -> Engine:
    return Engine(session, variant(batch, LOGITS), FromIds.width, budget=budget)


def arrays(texts: Sequence[Sequence[int]]) -> list[Int64]:
    return [np.array(text, np.int64) for text in texts]


def spoiling(session: Session, token: int, field: str, value: float) -> Around:
    """Puts `value` into an output of the texts that contain a token: all of their values if it is zero, else
    the last one.
    """

    def spoil(batch: Batch, outputs: Outputs) -> Outputs:
        array = getattr(outputs, field)
        bounds = batch.cu_seqlens.tolist()
        for row, (start, end) in enumerate(itertools.pairwise(bounds)):
            if token in batch.input_ids[start:end] and len(array):
                part = array[row : row + 1] if field in ("cls", "logits") else array[start:end]
                part.reshape(-1)[slice(None) if value == 0 else slice(-1, None)] = value
        return outputs

    return Around(session, spoil)


# run


@given(texts, machines, budgets)
def test_results_are_in_input_order(
    texts: list[list[int]], machine: tuple[tuple[str, str], int], budget: Budget | None
):
    """Whatever the lengths, batch kind, number of workers and budget: row n holds what text n's ids give."""
    (batch, provider), workers = machine
    session = FromIds(provider, workers)
    found = engine(session, batch, budget).run(arrays(texts), token_states=True)
    assert len(found) == len(texts)
    assert found.cls.shape == (len(texts), FromIds.width)
    for row, text in enumerate(texts):
        assert np.array_equal(found.cls[row], session.cls(text))
        assert np.array_equal(found.token_weights[row], session.weights(text))
        assert np.array_equal(found.token_states[row], session.states(text))
    assert sorted(text for run in session.runs for text in run[0]) == sorted(texts)


@given(texts, machines, budgets)
def test_pairs_are_in_input_order(
    texts: list[list[int]], machine: tuple[tuple[str, str], int], budget: Budget | None
):
    """The same for a reranker, whose graph gives a logit for each pair and nothing else."""
    (batch, provider), workers = machine
    session = FromIds(provider, workers, logits=True)
    found = reranker(session, batch, budget).run(arrays(texts))
    assert found.logits.tolist() == [session.logit(text) for text in texts]
    assert len(found) == len(texts)
    assert found.token_weights == found.token_states == []
    assert found.cls.shape == (0, FromIds.width)


@given(texts, machines, budgets)
def test_any_list_is_as_one_by_one(
    texts: list[list[int]], machine: tuple[tuple[str, str], int], budget: Budget | None
):
    """Against the slow way: every text in a run of its own."""
    (batch, provider), workers = machine
    ids = arrays(texts)
    together = engine(FromIds(provider, workers), batch, budget).run(ids, token_states=True)
    for row, one in enumerate(ids):
        alone = engine(FromIds(provider), batch).run([one], token_states=True)[0]
        assert np.array_equal(together[row].cls, alone.cls)
        assert np.array_equal(together[row].token_weights, alone.token_weights)
        assert np.array_equal(together[row].token_states, alone.token_states)


def test_no_texts():
    """Empty arrays of the right shape, and no run."""
    session = FromIds()
    found = engine(session).run([], token_states=True)
    assert (len(found), found.cls.shape) == (0, (0, FromIds.width))
    assert found.cls.dtype == np.float32
    assert found.token_weights == found.token_states == []
    assert reranker(session).run([]).logits.shape == (0,)
    assert engine(session).run_unchecked([]).finite().shape == (0,)
    assert session.runs == []


@pytest.mark.parametrize("asked", [False, True])
def test_states_of_tokens_only_when_asked_for(asked: bool):
    """They are large: the session is not told to fetch them otherwise."""
    session = FromIds(workers=2)
    found = engine(session, budget=Budget(max_tokens=8)).run(arrays([[1, 2]] * 9), token_states=asked)
    assert {states for *_, states in session.runs} == {asked}
    assert len(found.token_states) == (9 if asked else 0)
    assert (found[0].token_states is not None) == asked
    session.runs.clear()
    (state,) = engine(session).run_batch(arrays([[1, 2]]), token_states=asked)
    assert isinstance(state, State)
    assert (state.token_states is not None) == asked
    assert [states for *_, states in session.runs] == [asked]


@given(texts, machines, budgets)
def test_done_counts_every_text_once(
    texts: list[list[int]], machine: tuple[tuple[str, str], int], budget: Budget | None
):
    """What a progress bar adds up is the number of texts; `lap` hears of the plan, then of each run and its
    results.
    """
    (batch, provider), workers = machine
    session = FromIds(provider, workers)
    counts: list[int] = []
    laps: list[str] = []
    engine(session, batch, budget).run(arrays(texts), done=counts.append, lap=laps.append)
    assert sum(counts) == len(texts)
    assert sorted(counts) == sorted(len(run[0]) for run in session.runs)
    assert laps == ["plan", *["run", "collect"] * len(session.runs)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["cls", "token_weights", "token_states"])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_text_that_is_not_finite_is_named(field: str, value: float, place: int):
    """One value in the state, in a weight or in a token's state is enough; the error has the first such
    text's index.
    """
    rows = [[5, n + 10] + [5] * n for n in range(7)]
    session = spoiling(FromIds(workers=2), place + 10, field, value)
    with pytest.raises(NonFiniteOutputError, match=rf"texts\[{place}\]") as caught:
        engine(session, budget=Budget(max_tokens=12)).run(arrays(rows), token_states=True)
    assert caught.value.index == place
    found = engine(session).run_unchecked(arrays(rows), token_states=True)
    assert found.finite().tolist() == [row != place for row in range(7)]


def test_the_first_of_several_is_named():
    """In input order, whichever ran first."""
    session = spoiling(FromIds(), 7, "cls", np.nan)
    with pytest.raises(NonFiniteOutputError) as caught:
        engine(session, budget=Budget(max_tokens=5)).run(arrays([[1, 2], [7, 3], [1, 7, 4, 5]]))
    assert caught.value.index == 1


def test_a_pair_that_is_not_finite_is_named():
    """As a pair, not as a text."""
    session = spoiling(FromIds(logits=True), 7, "logits", np.nan)
    with pytest.raises(NonFiniteOutputError, match=r"pairs\[1\]"):
        Engine(session, variant("ragged", LOGITS), 4).run(arrays([[1, 2], [7, 3]]))


def test_a_zero_vector_is_refused():
    """It has no direction, so it can be neither normalised nor compared; zero weights and logits are fine."""
    session = spoiling(FromIds(), 7, "cls", 0.0)
    with pytest.raises(NonFiniteOutputError) as caught:
        engine(session).run(arrays([[1, 2], [7, 3]]))
    assert caught.value.index == 1
    outcomes = engine(session).run_batch(arrays([[1, 2], [7, 3]]))
    assert [type(outcome) for outcome in outcomes] == [State, NonFiniteOutputError]
    zeros = spoiling(FromIds(), 7, "token_weights", 0.0)
    assert engine(zeros).run(arrays([[7, 3]])).token_weights[0].tolist() == [0, 0]
    logits = FromIds(logits=True)
    assert reranker(logits).run(arrays([[4, 6]])).logits.tolist() == [0.0]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_that_fails_fails_the_call(workers: int):
    """`run` has one result for all texts, so an error of a session is raised."""
    session = FromIds(workers=workers)
    session.failures[7] = EngineError("it broke")
    with pytest.raises(EngineError, match="it broke"):
        engine(session, budget=Budget(max_tokens=6)).run(arrays([[1, 2], [7, 3], [1, 4], [1, 5]]))


# plan


def test_budgets():
    """By default what suits the variant; a caller's own one is kept."""
    assert engine(batch="packed").budget == PACKED_BUDGET
    assert engine(batch="ragged").budget == engine(batch="padded").budget == Budget()
    own = Budget(max_tokens=7)
    assert engine(batch="packed", budget=own).budget is own


def test_the_plan_is_the_sessions():
    """A CPU's runs may have all processors; on GPUs each run has one device, and a call is spread over all of
    them.
    """
    lengths = [8000] * 4
    assert engine(FromIds("cpu", 2)).plan(lengths).on_all > 0
    assert engine(FromIds("cuda", 2), "packed").plan(lengths).on_all == 0
    assert engine(FromIds("cpu", 2), "padded").plan(lengths).on_all > 0
    assert engine(FromIds("tensorrt", 2), "padded").plan(lengths).on_all == 0
    assert len(engine(FromIds("cuda", 1), "packed").plan(lengths).groups) == 1
    assert len(engine(FromIds("cuda", 4), "packed").plan(lengths).groups) == 4
    assert engine(FromIds("cpu", 3)).workers == 3


def test_the_cost_is_the_engines():
    """Where starting a run costs nothing, texts of different lengths do not share one; where it costs much,
    they do.
    """
    lengths = [2, 10] * 8
    for run, groups in ((0.0, 2), (1e6, 1)):
        planner = Engine(FromIds(), variant(), 4, cost=Cost(run=run, scores=1, cache_tokens=10**6))
        assert len(planner.plan(lengths).groups) == groups


def test_what_a_graph_gives():
    """Graphs of bundles from before 2026-11-27 have no states of tokens."""
    assert engine().gives_token_states
    assert not Engine(FromIds(), variant(outputs=VECTORS), 4).gives_token_states


# run_batch


@given(texts, st.sets(st.integers(1, 99), max_size=4), st.sets(st.integers(1, 99), max_size=4))
def test_each_text_has_its_result_or_its_error(texts: list[list[int]], failing: set[int], zeros: set[int]):
    """Texts that fail and texts that are not finite do not affect the others of their batch."""
    session = FromIds()
    session.failures = {token: EngineError(f"token {token}") for token in failing}
    around: Session = session
    for token in zeros:
        around = spoiling(around, token, "cls", np.nan)
    outcomes = engine(around).run_batch(arrays(texts), token_states=True) if texts else []
    assert len(outcomes) == len(texts)
    for row, (text, outcome) in enumerate(zip(texts, outcomes, strict=True)):
        if failing & set(text):
            assert type(outcome) is EngineError
            assert str(outcome) in {f"token {token}" for token in failing & set(text)}
        elif zeros & set(text):
            assert isinstance(outcome, NonFiniteOutputError)
            assert outcome.index == row
        else:
            assert isinstance(outcome, State)
            assert np.array_equal(outcome.cls, session.cls(text))
            assert np.array_equal(outcome.token_weights, session.weights(text))
            assert np.array_equal(outcome.token_states, session.states(text))


def test_a_batch_without_failures_is_one_run():
    """With the share and the owner that the caller named."""
    session, owner = FromIds(workers=4), object()
    engine(session).run_batch(arrays([[1, 2], [3, 4, 5]]), "one", owner)
    assert session.runs == [([[1, 2], [3, 4, 5]], "one", owner, False)]


def test_what_is_not_asked_for():
    """By default a batch takes what is free, belongs to nobody, and the states of its tokens are not
    fetched."""
    session = FromIds()
    (state,) = engine(session).run_batch(arrays([[1, 2]]))
    assert isinstance(state, State)
    assert state.token_states is None
    assert engine(session).run(arrays([[1, 2]])).token_states == []
    assert engine(session).run_unchecked(arrays([[1, 2]])).token_states == []
    assert session.runs == [([[1, 2]], "any", None, False)] * 3


def test_a_failing_text_fails_alone():
    """The batch is halved until the failing text is by itself; parts keep share and owner."""
    session, owner = FromIds(), object()
    error = session.failures[7] = EngineError("it broke")
    rows = [[n, n] for n in (1, 2, 7, 4)]
    outcomes = engine(session).run_batch(arrays(rows), "extra", owner)
    assert [outcome is error for outcome in outcomes] == [False, False, True, False]
    assert [run[0] for run in session.runs] == [rows, rows[:2], rows[2:], [rows[2]], [rows[3]]]
    assert {(share, whose) for _, share, whose, _ in session.runs} == {("extra", owner)}


@pytest.mark.parametrize("error", [Cancelled("stopped"), ForkedProcessError()], ids=["cancelled", "forked"])
def test_what_is_no_texts_fault_is_not_halved(error: EngineError):
    """A stopped run stays stopped, and in a child of fork() no run can succeed: one run, its error for every
    text.
    """
    session = FromIds()
    session.failures[7] = error
    outcomes = engine(session).run_batch(arrays([[1, 2], [7, 3], [1, 4]]))
    assert len(session.runs) == 1
    assert all(outcome is error for outcome in outcomes)
    assert len(outcomes) == 3


def test_a_failure_that_is_none_of_ours_is_raised():
    """A bug is not made into a text's error."""

    def broken(batch: Batch, outputs: Outputs) -> Outputs:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine(Around(FromIds(), broken)).run_batch(arrays([[1, 2], [3, 4]]))


def test_scores_of_a_batch():
    """A reranker's states have a logit alone."""
    session = FromIds(logits=True)
    session.failures[7] = EngineError("it broke")
    first, second, third = reranker(session).run_batch(arrays([[1, 2], [7, 3], [5, 9]]))
    assert isinstance(first, State)
    assert isinstance(second, EngineError)
    assert isinstance(third, State)
    assert (first.logit, third.logit) == (-7.0, 4.0)
    assert len(first.cls) == len(first.token_weights) == 0
    assert first.token_states is None


# States


def test_rows_of_states():
    """Some texts' results, in the order that was asked for."""
    rows = [[1, 2], [3, 4, 5], [6, 7]]
    found = engine().run(arrays(rows), token_states=True)
    chosen = found.rows(np.array([2, 0]))
    assert len(chosen) == 2
    for place, row in enumerate((2, 0)):
        assert np.array_equal(chosen.cls[place], found.cls[row])
        assert chosen.token_weights[place] is found.token_weights[row]
        assert chosen.token_states[place] is found.token_states[row]
    assert len(found.rows(np.zeros(0, np.int64))) == 0
    logits = reranker(FromIds(logits=True)).run(arrays(rows))
    assert logits.rows(np.array([1])).logits.tolist() == [logits.logits[1]]


def test_a_state_of_a_text():
    """An embedding model's has no logit, a reranker's nothing else."""
    states = States(np.ones((1, 2), np.float32), [np.ones(3, np.float32)])
    assert (states[0].logit, states[0].token_states) == (0.0, None)
    assert len(states[0].token_weights) == 3


def test_stop_and_close_reach_the_session():
    """With the owner that runs were given."""
    session, owner = FromIds(), object()
    running = engine(session)
    running.stop(owner)
    running.close()
    assert (session.stopped, session.closed) == ([owner], True)
