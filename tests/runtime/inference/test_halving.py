"""A batch that fails runs in halves: in order, down to single texts, and no further."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.errors import Cancelled, EngineError, OutOfMemory
from gte_runtime.inference.batch import Batch, make_batch
from gte_runtime.inference.halving import all_or_error, joined, run_halved
from gte_runtime.inference.session import NOTHING, Outputs


def texts(*lengths: int) -> Batch:
    rng = np.random.default_rng(sum(lengths))
    ids = [rng.integers(4, 300, length) for length in lengths]
    return make_batch(np.arange(len(ids)), ids, 128)


def always(error: EngineError) -> bool:
    return True


def values(part: Batch) -> Outputs:
    """The number of tokens as a text's state, each token's id as its weight."""
    return Outputs(part.lengths.astype(np.float32)[:, None], part.input_ids.astype(np.float32))


def test_a_batch_that_runs_stays_whole():
    """One run, not marked as a part of a failed one."""
    runs: list[bool] = []

    def run(part: Batch, halved: bool) -> Outputs:
        runs.append(halved)
        return values(part)

    batch = texts(5, 6, 7)
    ((part, outcome),) = run_halved(run, batch, always)
    assert part is batch
    assert runs == [False]
    assert isinstance(outcome, Outputs)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=12), st.sets(st.integers(0, 11)))
def test_a_failing_text_fails_alone(lengths: list[int], bad: set[int]):
    """Wherever failing texts lie: each has its error, the others their own outputs, in the order of the
    batch.
    """
    batch, error = texts(*lengths), EngineError("it broke")

    def run(part: Batch, halved: bool) -> Outputs:
        if bad & set(part.rows.tolist()):
            raise error
        return values(part)

    found: list[object] = []
    for part, outcome in run_halved(run, batch, always):
        if isinstance(outcome, EngineError):
            assert len(part.rows) == 1
            found.append(outcome)
        else:
            found += outcome.cls[:, 0].tolist()
    assert found == [error if row in bad else length for row, length in enumerate(lengths)]


@given(st.lists(st.integers(2, 40), min_size=1, max_size=12), st.integers(1, 12))
def test_parts_give_what_the_whole_gives(lengths: list[int], most: int):
    """Where no more than a few texts have room, the joined outputs are those of one run."""
    batch = texts(*lengths)

    def run(part: Batch, halved: bool) -> Outputs:
        assert halved == (len(part.rows) < len(batch.rows))
        if len(part.rows) > most:
            raise OutOfMemory("out of memory during a run")
        return values(part)

    found, expected = all_or_error(run_halved(run, batch, always)), values(batch)
    assert np.array_equal(found.cls, expected.cls)
    assert np.array_equal(found.token_weights, expected.token_weights)


def test_some_errors_are_not_worth_halves():
    """The whole part has the error; what ran before keeps its outputs, what comes after runs."""
    runs: list[list[int]] = []

    def run(part: Batch, halved: bool) -> Outputs:
        runs.append(part.rows.tolist())
        if len(part.rows) == 4:
            raise OutOfMemory("out of memory during a run")
        if 0 in part.rows:
            raise Cancelled("stopped")
        return values(part)

    outcomes = list(run_halved(run, texts(5, 5, 5, 5), lambda error: not isinstance(error, Cancelled)))
    assert [(part.rows.tolist(), type(outcome)) for part, outcome in outcomes] == [
        ([0, 1], Cancelled),
        ([2, 3], Outputs),
    ]
    assert runs == [[0, 1, 2, 3], [0, 1], [2, 3]]


def test_halving_ends():
    """A single text that does not fit is an error, and nothing is tried after it."""
    sizes: list[int] = []

    def never(part: Batch, halved: bool) -> Outputs:
        sizes.append(len(part.rows))
        raise OutOfMemory("out of memory during a run")

    for lengths, expected in (([5, 5, 5, 5], [4, 2, 1]), ([5], [1])):
        sizes.clear()
        with pytest.raises(OutOfMemory):
            all_or_error(run_halved(never, texts(*lengths), always))
        assert sizes == expected


def test_parts_are_joined_in_order():
    """Rows and token weights follow one another, and so do a reranker's scores."""
    parts = [Outputs(np.full((n, 2), n, np.float32), np.full(n * 3, n, np.float32)) for n in (1, 2)]
    assert joined(parts).cls[:, 0].tolist() == [1, 2, 2]
    assert joined(parts).token_weights.tolist() == [1] * 3 + [2] * 6
    logits = joined([Outputs(NOTHING, NOTHING, np.array(row, np.float32)) for row in ([1, 2], [3])]).logits
    assert logits.tolist() == [1, 2, 3]
