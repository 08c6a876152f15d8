"""The scheduler alone: a table of arrivals, a clock that is a number, and no thread."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gte_runtime.inference.cost import Cost
from gte_runtime.inference.plan import Budget, budget_at_the_same_time, plan_ragged
from gte_runtime.server.scheduler import LONG, SHORT, WINDOW, Full, Item, Request, Run, Scheduler


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


@settings(max_examples=examples(50), deadline=None)
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


@settings(max_examples=examples(50), deadline=None)
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


@settings(max_examples=examples(60), deadline=None)
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


# By example, with a model that puts up to `most` texts into one batch, and for which a token costs 1


class Simple(Planner):
    def __init__(self, most: int = 10**9) -> None:
        super().__init__()
        self.most = most
        self.planned: list[list[int]] = []

    def plan(self, lengths: Sequence[int]) -> list[NDArray[np.int64]]:
        self.planned.append(list(lengths))
        return [
            rows[::-1]
            for rows in np.split(np.arange(len(lengths)), range(self.most, len(lengths), self.most))
        ]

    def cost(self, length: int) -> float:
        return float(length)


ALONE = Simple(1)
TOGETHER = Simple()


def tags(run: Run | None) -> list[float]:
    assert run is not None
    return [item.tag for item in run.items]


def requests_of(run: Run | None) -> list[Request]:
    assert run is not None
    return [item.request for item in run.items]


def test_tags_are_virtual_time_and_the_texts_before():
    """The formula in the module's docstring, for requests that arrive before, while and after others run."""
    s = scheduler(slots=1)
    first = request(10, 20, 30, model=ALONE)
    s.admit(first, 0.0)
    run = s.take(0.0)
    assert tags(run) == [0.0]  # virtual time: 10 of one request
    second, third = request(7, 5, model=ALONE), request(9, model=ALONE)
    s.admit(second, 0.0)
    s.admit(third, 0.0)
    s.finish(run)
    runs = drained(s)
    assert [(r.items[0].length, *tags(r)) for r in runs] == [
        (20, 10.0),
        (7, 10.0),
        (9, 10.0),
        (5, 17.0),
        (30, 30.0),
    ]
    s.admit(first, 0.0)
    assert tags(s.take(0.0)) == [0.0]  # idle: time begins again


def test_virtual_time_is_divided_by_the_unfinished():
    """A run of 12 tokens costs two requests 6 each; a request that has ended counts no more."""
    s = scheduler(slots=3)
    s.admit(request(12, 1, 1, model=ALONE), 0.0)
    s.admit(request(100, model=ALONE), 0.0)
    run = s.take(0.0)
    s.admit(request(5, model=ALONE), 0.0)
    assert sorted(item.tag for item in s._queue) == [0.0, 6.0, 12.0, 13.0]
    s.finish(run)
    assert tags(s.take(0.0)) == [0.0]  # 100 tokens, three requests
    s.admit(request(3, model=ALONE), 0.0)
    assert max(item.tag for item in s._queue) == pytest.approx(6 + 100 / 3)


def test_a_request_that_is_over_does_not_slow_the_clock():
    """What ran or was dropped leaves no trace: alone again, a request's run costs all of its tokens."""
    s = scheduler(slots=2)
    large = request(10, 10, 10, model=ALONE)
    s.admit(large, 0.0)
    gone, done = request(5, 5, model=ALONE), request(4, model=ALONE)
    s.admit(gone, 0.0)
    s.admit(done, 0.0)
    runs = [s.take(0.0), s.take(0.0)]  # 10 + 5 of three requests: virtual time 5
    assert [run.items[0].length for run in runs] == [10, 5]
    s.finish(runs[1])
    assert s.drop(gone) == 1
    s.finish(s.take(0.0))  # 4 of two: 7
    s.finish(s.take(0.0))  # 10 of one: 17
    late = request(1, model=ALONE)
    s.admit(late, 0.0)
    assert late.waiting == 1
    assert {item.request: item.tag for item in s._queue} == {large: 20.0, late: 17.0}


def test_equal_tags_run_in_the_order_of_arrival():
    """Also within one batch, whatever order the plan lists its positions in."""
    s = scheduler(slots=1)
    requests = [request(n, model=TOGETHER) for n in (5, 3, 9, 4)]
    for each in requests:
        s.admit(each, 0.0)
    run = s.take(0.0)
    assert requests_of(run) == requests
    assert (run.tokens, run.model, run.taken) == (21, TOGETHER, 0.0)


def test_items_hold_what_their_request_gave():
    """Positions, lengths and payloads belong together; a request with fewer payloads than texts is a bug."""
    s, whole = scheduler(slots=1), request(3, 4, model=TOGETHER)
    s.admit(whole, 0.0)
    run = s.take(0.0)
    assert [(i.index, i.length, i.payload) for i in run.items] == [
        (0, 3, whole.payloads[0]),
        (1, 4, whole.payloads[1]),
    ]
    with pytest.raises(ValueError, match=r"zip\(\)"):
        scheduler().admit(Request(TOGETHER, [3, 4], [None]), 0.0)


def test_times_of_a_request():
    """It arrives when it is admitted and starts with its first run; later runs do not change that."""
    s, both = scheduler(slots=1), request(5, 5, model=ALONE)
    assert (both.arrived, both.started, both.waiting, both.tokens, Item(both, 0, 5, None).tag) == (
        0,
        None,
        0,
        10,
        0,
    )
    s.admit(both, 3.0)
    assert (both.arrived, both.started, both.waiting) == (3.0, None, 2)
    run = s.take(4.0)
    assert (both.started, both.waiting, run.taken) == (4.0, 1, 4.0)
    s.finish(run)
    assert s.take(5.0).taken == 5.0
    assert (both.started, both.waiting) == (4.0, 0)


def test_a_window_of_texts_of_one_model():
    """The first text and the next ones of its model, 64 in all; of another model none, wherever they wait."""
    s, mine, others = scheduler(slots=1), Simple(), Simple()
    for n in range(WINDOW + 6):
        s.admit(request(2 + n, model=mine), 0.0)
        s.admit(request(2, model=others), 0.0)
    run = s.take(0.0)
    assert mine.planned == [[2 + n for n in range(WINDOW)]]
    assert others.planned == []
    assert len(run.items) == WINDOW == 64
    assert (run.share, s.waiting) == ("one", WINDOW + 12)
    assert s.waiting_tokens == sum(item.length for item in s._queue)


def test_a_plan_that_leaves_out_the_first_text():
    """That would be a bug of the model, and a text that never runs."""

    class Forgetful(Simple):
        def plan(self, lengths: Sequence[int]) -> list[NDArray[np.int64]]:
            return [np.arange(1, len(lengths))]

    s = scheduler()
    s.admit(request(5, 5, model=Forgetful()), 0.0)
    with pytest.raises(AssertionError, match="left out"):
        s.take(0.0)


@pytest.mark.parametrize(("length", "starts"), [(LONG, False), (LONG + 1, True)])
def test_what_a_long_run_is(length: int, starts: bool):
    """An extra run starts beside runs of more than LONG tokens; for one of exactly LONG it waits."""
    s = scheduler(slots=2)
    s.admit(request(length, 3 * LONG, model=ALONE), 0.0)
    assert [s.take(0.0).slots for _ in range(2)] == [1, 1]
    s.admit(request(SHORT, model=ALONE), 0.0)
    run = s.take(1.0)
    assert (run is not None) == starts
    if run is not None:
        assert (run.share, run.slots, run.tokens, run.taken) == ("extra", 0, SHORT, 1.0)


def test_an_extra_run_is_filled_up_to_short():
    """Texts of SHORT tokens together go along, the one that goes beyond waits, and so does all after it."""
    s = scheduler(slots=1)
    s.admit(request(LONG + 1, model=ALONE), 0.0)
    s.take(0.0)
    s.admit(request(SHORT - 10, SHORT + 1, 10, 1, 1, model=TOGETHER), 0.0)
    assert [item.length for item in s.take(0.0).items] == [SHORT - 10, 10]
    assert (s.waiting, s.held) == (3, LONG + 1 + 2 * SHORT + 3)


def test_an_extra_run_needs_no_slot():
    """It does not keep the next ordinary run from starting when a long run ends."""
    s = scheduler(slots=2)
    s.admit(request(2000, 2000, model=ALONE), 0.0)
    long = [s.take(0.0) for _ in range(2)]
    s.admit(request(SHORT, model=ALONE), 0.0)
    assert s.take(0.0).share == "extra"
    s.finish(long[0])
    s.admit(request(500, model=ALONE), 0.0)
    run = s.take(0.0)
    assert (run.share, run.slots) == ("one", 1)


def test_alone_means_that_nothing_else_waits():
    """A run takes all processors if none is taken and it holds the whole queue; all slots are then taken."""
    s = scheduler(slots=3)
    s.admit(request(5, 6, model=ALONE), 0.0)
    run = s.take(0.0)
    assert (run.share, run.slots) == ("one", 1)
    last = s.take(0.0)
    assert (last.share, last.slots) == ("one", 1)
    s.finish(run)
    s.finish(last)
    s.admit(request(5, 6, model=TOGETHER), 0.0)
    run = s.take(0.0)
    assert (run.share, run.slots) == ("all", 3)
    s.admit(request(2000, model=ALONE), 0.0)
    assert s.take(0.0) is None


def test_as_many_runs_as_slots():
    """Ordinary runs, of whatever size."""
    s = scheduler(slots=3)
    s.admit(request(*[400] * 9, model=ALONE), 0.0)
    assert [s.take(0.0) is None for _ in range(4)] == [False, False, False, True]
    assert len(s.running) == 3


@pytest.mark.parametrize(("tokens", "waits"), [(SHORT - 1, True), (SHORT, False)])
def test_waiting_ends_with_enough_tokens(tokens: int, waits: bool):
    """SHORT tokens in the queue are a full batch; one fewer wait, from the first of them on."""
    s = scheduler(slots=2, patience=0.5)
    s.admit(request(10, 600, model=ALONE), 0.0)
    s.take(0.0)
    s.finish(s.take(0.0))
    s.admit(request(tokens - 20, model=TOGETHER), 2.0)
    s.admit(request(20, model=TOGETHER), 2.25)
    assert (s.take(2.25) is None) == waits
    assert s.wake(2.25) == (2.5 if waits else None)
    if waits:
        assert s.take(2.49) is None
        assert s.wake(2.5) is None
        assert s.take(2.5).tokens == tokens


def test_when_to_wake():
    """For the next deadline of a text that waits, or for the end of the patience: whichever is earlier."""
    s = scheduler(slots=2, patience=0.5)
    assert s.wake(0.0) is None
    started = request(10, deadline=0.1, model=ALONE)
    s.admit(started, 0.0)
    assert s.wake(0.0) == 0.1
    s.take(0.0)
    assert s.wake(0.0) is None  # it runs: its deadline is no longer anybody's
    s.admit(request(10, deadline=9.0, model=ALONE), 1.0)
    s.admit(request(10, deadline=3.0, model=ALONE), 1.0)
    assert s.wake(1.0) == 1.5
    assert s.wake(1.5) == 3.0
    s.admit(request(10, deadline=1.2, model=ALONE), 1.0)
    assert s.wake(1.0) == 1.2


def test_deadlines_of_requests_that_have_partly_started():
    """What runs goes on, what waits is dropped and gives back its tokens; a request expires once."""
    s = scheduler(slots=1)
    partly, none, other = (
        request(5, 6, 7, deadline=1.0, model=ALONE),
        request(8, model=ALONE),
        request(9, deadline=1.0, model=ALONE),
    )
    for each in (partly, none, other):
        s.admit(each, 0.0)
    run = s.take(0.0)
    assert s.expire(0.999) == []
    assert s.expire(1.0) == [partly, other]
    assert (partly.waiting, s.held, s.waiting_tokens, s.waiting) == (0, 13, 8, 1)
    assert s.expire(2.0) == []
    s.finish(run)
    assert (s.held, requests_of(s.take(2.0))) == (8, [none])


def test_a_request_that_has_started_does_not_expire():
    """All of its texts ran in time, so its deadline is only forgotten; those behind it are looked at."""
    s = scheduler(slots=1)
    started, waits = request(5, deadline=1.0, model=ALONE), request(6, deadline=2.0, model=ALONE)
    s.admit(started, 0.0)
    s.admit(waits, 0.0)
    s.take(0.0)
    assert s.expire(1.5) == []
    assert s.wake(1.5) == 2.0
    assert s.expire(2.0) == [waits]
    assert s.wake(2.0) is None


def test_deadlines_of_others_do_not_matter():
    """What has started is passed over, wherever its deadline is among those that wait."""
    for mine, other in ((1.0, 2.0), (2.0, 1.0)):
        s = scheduler(slots=1)
        started, waits = request(5, deadline=other, model=ALONE), request(6, deadline=mine, model=ALONE)
        s.admit(started, 0.0)
        s.take(0.0)
        s.admit(waits, 0.0)
        assert s.expire(0.5) == []
        s.admit(request(7, deadline=9.0, model=ALONE), 0.0)
        assert (s.wake(0.5), s.waiting) == (mine, 2)
        assert s.expire(mine) == [waits]
    s = scheduler(slots=1)
    started, waits = request(5, deadline=1.0, model=ALONE), request(6, deadline=2.0, model=ALONE)
    s.admit(started, 0.0)
    s.admit(waits, 0.0)
    s.take(0.0)
    assert s.wake(0.5) == 2.0


def test_dropping_what_does_not_wait():
    """Nothing to drop: of a request that runs, that has ended or that was dropped before."""
    s = scheduler(slots=1)
    runs, waits = request(5, model=ALONE), request(6, 7, deadline=3.0, model=ALONE)
    s.admit(runs, 0.0)
    s.admit(waits, 0.0)
    run = s.take(0.0)
    assert (s.drop(runs), s.held) == (0, 18)
    assert (s.drop(waits), s.held, s.waiting, s.waiting_tokens) == (2, 5, 0, 0)
    assert s.drop(waits) == 0
    assert s.expire(9.0) == []
    assert s.wake(0.0) is None
    s.finish(run)
    assert (s.drop(runs), s.held, s.running) == (0, 0, set())
