"""The scheduler alone: a table of arrivals, a clock that is a number, and no thread."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gte_runtime.inference.cost import Cost
from gte_runtime.inference.plan import Budget, budget_at_the_same_time, plan_ragged
from gte_runtime.server.scheduler import LONG, SHORT, Full, Request, Run, Scheduler


class Planner:
    """A model as the scheduler sees it, with the real planner."""

    name = "model"

    def __init__(self, workers: int = 2) -> None:
        self.workers = workers

    def plan(self, lengths: Sequence[int]) -> list[NDArray[np.int64]]:
        budget = budget_at_the_same_time(Budget(), sum(lengths), self.workers)
        return plan_ragged(lengths, 512, budget, Cost())

    def cost(self, length: int) -> float:
        return length + length**2 / 6000


MODEL = Planner()


def request(*lengths: int, deadline: float | None = None, model: Planner = MODEL) -> Request:
    return Request(model, lengths, [object() for _ in lengths], deadline)


def scheduler(capacity: int = 10**9, slots: int = 2, patience: float = 0.0) -> Scheduler:
    return Scheduler(capacity=capacity, slots=slots, patience=patience)


def drained(s: Scheduler, now: float = 0.0) -> list[Run]:
    """Everything that waits, one run after the other."""
    runs = []
    while (run := s.take(now)) is not None:
        runs.append(run)
        s.finish(run)
    return runs


LENGTHS = st.lists(
    st.one_of(st.integers(1, 40), st.integers(100, 600), st.integers(1000, 8192)), min_size=1, max_size=12
)


@settings(max_examples=50, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=8), st.integers(0, 2**32))
def test_every_text_runs_exactly_once(batches: list[list[int]], seed: int):
    """Whatever arrives, in whatever order runs end: each text is in one run; nothing is held at the end."""
    order, s, seen = random.Random(seed), scheduler(), []
    requests = [request(*lengths) for lengths in batches]
    going: list[Run] = []
    arriving = list(requests)
    while arriving or going or s.waiting:
        if arriving and order.random() < 0.5:
            s.admit(arriving.pop(0), 0.0)
        elif (run := s.take(0.0)) is not None:
            going.append(run)
            seen += [(id(item.request), item.index, item.length) for item in run.items]
        elif going:
            s.finish(going.pop(order.randrange(len(going))))
    assert sorted(seen) == sorted((id(r), i, n) for r in requests for i, n in enumerate(r.lengths))
    assert s.held == 0
    assert s.waiting_tokens == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=8))
def test_an_ordinary_run_holds_the_text_with_the_lowest_tag(batches: list[list[int]]):
    """So a text waits for at most as many runs as there are texts with lower tags: nobody starves."""
    s = scheduler(slots=1)
    for lengths in batches:
        s.admit(request(*lengths), 0.0)
    while s.waiting:
        lowest = min(item.tag for item in s._queue)
        run = s.take(0.0)
        assert run is not None
        assert min(item.tag for item in run.items) == lowest
        s.finish(run)


def test_a_query_behind_a_large_request_is_next():
    """2048 documents wait; a query that comes later is in the very next run, in its first place."""
    s = scheduler(slots=1)
    s.admit(request(*[150] * 2048), 0.0)
    first = s.take(0.0)
    query = request(12)
    s.admit(query, 0.1)
    s.finish(first)
    assert any(item.request is query for item in s.take(0.2).items)


def test_a_query_behind_two_large_requests_is_next():
    """Half of both is done when it comes: what they have had does not count against it."""
    s = scheduler(slots=1)
    s.admit(request(*[150] * 1000), 0.0)
    s.admit(request(*[150] * 1000), 0.0)
    while s.waiting > 1000:
        s.finish(s.take(0.0))
    query = request(12)
    s.admit(query, 0.1)
    runs = [s.take(0.2)]
    s.finish(runs[0])
    runs.append(s.take(0.2))
    assert any(item.request is query for run in runs for item in run.items)


def test_nothing_later_goes_before_a_single_text():
    """A text of 8192 tokens keeps its place before queries that come after it, however short they are."""
    s, long = scheduler(slots=1), request(8192)
    for _ in range(3):
        s.admit(request(16), 0.0)
    s.admit(long, 0.0)
    for _ in range(100):
        s.admit(request(16), 0.0)
    runs = drained(s)
    assert next(i for i, run in enumerate(runs) if run.items[0].request is long) <= 1


def test_a_stream_of_queries_does_not_starve_a_large_request():
    """Under queries without end, eight at a time, 100 documents get their ninth of the machine."""
    s, large, served, waited = scheduler(slots=1), request(*[150] * 100), 0.0, 0
    s.admit(large, 0.0)
    while large.waiting and waited < 100_000:
        for _ in range(max(0, 8 - s.waiting + large.waiting)):
            s.admit(request(16), 0.0)
        run = s.take(0.0)
        served += sum(MODEL.cost(item.length) for item in run.items)
        s.finish(run)
        waited += 1
    assert served <= 10 * 100 * MODEL.cost(150)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=40),
    st.lists(st.integers(1, 600), min_size=1, max_size=40),
)
def test_two_requests_share_evenly(mine: list[int], yours: list[int]):
    """While both wait, neither is ahead by more than a run and a text, however large the other request is."""
    s = scheduler(slots=1)
    a, b = request(*mine), request(*yours)
    s.admit(a, 0.0)
    s.admit(b, 0.0)
    got = {id(a): 0.0, id(b): 0.0}
    while a.waiting and b.waiting:
        run = s.take(0.0)
        for item in run.items:
            got[id(item.request)] += MODEL.cost(item.length)
        s.finish(run)
        if a.waiting and b.waiting:
            ride = 64 * MODEL.cost(600)  # a run may take along whoever fits it
            assert abs(got[id(a)] - got[id(b)]) <= ride


def test_admission_is_whole_or_not_at_all():
    """N tokens fit; one more is refused, and leaves nothing behind."""
    s = scheduler(capacity=100)
    s.admit(request(40, 40), 0.0)
    with pytest.raises(Full):
        s.admit(request(10, 11), 0.0)
    assert (s.held, s.waiting) == (80, 2)
    s.admit(request(10, 10), 0.0)
    assert s.held == 100
    run = s.take(0.0)
    assert s.held == 100  # what runs counts, too
    s.finish(run)
    assert s.held == 100 - run.tokens


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(30, 200))
def test_the_number_of_refusals_is_exact(sizes: list[int], capacity: int):
    """As if counted by hand: a request comes in while the sum stays within the capacity."""
    s, held, refused = scheduler(capacity=capacity), 0, 0
    for size in sizes:
        try:
            s.admit(request(size), 0.0)
            held += size
            assert held <= capacity
        except Full:
            refused += 1
            assert held + size > capacity
    assert s.held == held
    assert s.waiting == len(sizes) - refused


def test_a_request_larger_than_the_queue_comes_in_alone():
    s = scheduler(capacity=100)
    s.admit(request(500), 0.0)
    with pytest.raises(Full):
        s.admit(request(1), 0.0)


def test_a_short_text_does_not_wait_for_long_ones():
    """All slots hold long runs: a short text starts at once; a second one waits, and a longer one always."""
    s = scheduler(slots=2)
    s.admit(request(8192, 8000), 0.0)
    assert [s.take(0.0).share for _ in range(2)] == ["one", "one"]
    s.admit(request(SHORT + 1), 0.0)
    assert s.take(0.0) is None
    query = request(20)
    s.admit(query, 0.0)
    extra = s.take(0.0)
    assert (extra.share, [item.request for item in extra.items]) == ("extra", [query])
    s.admit(request(20), 0.0)
    assert s.take(0.0) is None
    s.finish(extra)
    assert s.take(0.0).share == "extra"


def test_an_extra_run_stays_short():
    s = scheduler(slots=1)
    s.admit(request(LONG + 1), 0.0)
    s.take(0.0)
    s.admit(request(*[20] * 100), 0.0)
    assert 0 < s.take(0.0).tokens <= SHORT


def test_alone_it_takes_all_processors_and_in_company_one():
    s = scheduler(slots=2)
    s.admit(request(20), 0.0)
    run = s.take(0.0)
    assert (run.share, run.slots) == ("all", 2)
    s.admit(request(20), 0.0)
    assert s.take(0.0) is None
    s.finish(run)
    s.admit(request(500), 0.0)
    s.admit(request(30), 0.0)
    assert [s.take(0.0).share, s.take(0.0).share] == ["one", "one"]


def test_waiting_for_company_is_bounded():
    """Only while something runs, only until enough is there, and never beyond the patience."""
    s = scheduler(slots=3, patience=0.010)
    s.admit(request(600, 601), 0.0)
    assert [s.take(0.0).share, s.take(0.0).share] == ["one", "one"]
    s.admit(request(10), 0.0)
    assert s.take(0.0) is None
    assert s.wake(0.0) == pytest.approx(0.010)
    s.admit(request(SHORT), 0.004)
    assert s.take(0.004) is not None
    s = scheduler(slots=3, patience=0.010)
    s.admit(request(600, 601), 0.0)
    s.take(0.0), s.take(0.0)
    s.admit(request(10), 0.0)
    assert s.take(0.009) is None
    assert s.take(0.010) is not None
    s = scheduler(slots=2, patience=0.010)
    s.admit(request(10), 0.0)
    assert s.take(0.0) is not None  # idle: at once


def test_deadlines_take_out_what_waits_and_leave_what_runs():
    s = scheduler(slots=1)
    running, late, patient = request(20, deadline=1.0), request(30, deadline=1.0), request(40, deadline=9.0)
    s.admit(running, 0.0)
    run = s.take(0.0)
    s.admit(late, 0.0)
    s.admit(patient, 0.0)
    assert s.wake(0.5) == 1.0
    assert s.expire(0.99) == []
    assert s.expire(1.0) == [late]
    assert (s.waiting, s.held) == (1, 60)
    s.finish(run)
    assert [item.request for item in s.take(1.0).items] == [patient]


def test_a_dropped_request_is_gone():
    """200 requests whose clients left do not keep the next one waiting, and give back their room."""
    s = scheduler(capacity=10_000, slots=1)
    gone = [request(20, 20, deadline=5.0) for _ in range(200)]
    for each in gone:
        s.admit(each, 0.0)
    assert [s.drop(each) for each in gone] == [2] * 200
    assert s.held == 0
    last = request(20)
    s.admit(last, 0.0)
    assert [item.request for item in s.take(0.0).items] == [last]
    assert s.expire(99.0) == []


def test_models_do_not_mix():
    """Texts of two models never share a run."""
    s, other = scheduler(slots=2), Planner()
    for _ in range(5):
        s.admit(request(20, 30), 0.0)
        s.admit(request(20, 30, model=other), 0.0)
    runs = drained(s)
    assert all(len({id(item.request.model) for item in run.items}) == 1 for run in runs)
    assert sum(len(run.items) for run in runs) == 20
