"""Decides which texts run next, and which of them in one batch.

Pure: it has no thread, no sleep and no socket, and the time is an argument.

Admission: tokens that wait or run are counted. A request is admitted as a whole or refused as a whole.

Order: start-time fair queueing between requests (SFQ; Goyal, Vin and Cheng 1996), with the virtual time of
generalised processor sharing (Parekh and Gallager 1993). Virtual time advances with every run that starts, by
the cost of the run divided by the number of unfinished requests. The tag of a text is

    virtual time when its request arrived + cost of the texts before it in the request

Texts run in ascending order of their tags; of equal tags, the one that arrived first. So requests of one text
run in the order of their arrival, whatever their length; and a query that arrives after a request of 2048
documents waits only for the documents that would have run by then, had the two shared the machine evenly.

Guarantees, each with a test:

1. Every run but an extra one (3.) holds the text with the lowest tag of all that wait. So at most as many
   runs start before a text's as there are texts with lower tags.
2. No text that arrives later starts before the first text of a request, except in the same run or in one that
   was due anyway. Before a later text of a large request starts, no other request gets more than the texts
   before it got.
3. A short text does not wait for a long run. When all slots hold runs of more than LONG tokens, waiting texts
   of at most SHORT tokens may start one extra run, which shares the processors with the others.
4. Waiting for a fuller batch is bounded: only while something runs, only while fewer than SHORT tokens wait,
   and never longer than `patience`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from ..arrays import Int64

SHORT = 256
"""Tokens that use the processors well in one run: with so many, waiting for more gains little."""
LONG = 1024
"""Tokens of a run beyond which a short text would notice the wait for it."""
WINDOW = 64
"""Waiting texts that a run is chosen from. Planning takes 3 ms for 64 different lengths."""

Share = Literal["one", "all", "extra"]
"""Of the processors, for one run: one, all, or a share of those that other runs use."""


class Model(Protocol):
    """What the scheduler needs to know of a model. It never runs one."""

    def plan(self, lengths: Sequence[int]) -> list[Int64]:
        """Split texts of so many tokens each into batches: arrays of their positions."""

    def cost(self, length: int) -> float:
        """The cost of a text of this many tokens, in any unit that is the same for all models."""


M = TypeVar("M", bound=Model)
"""The models of one scheduler, which may be able to do more than it needs."""


@dataclass(eq=False, slots=True)
class Item(Generic[M]):
    """One text, waiting or running."""

    request: Request[M]
    index: int
    """Its position in the request."""
    length: int
    """Tokens."""
    payload: Any
    """What the model runs. The scheduler does not look at it."""
    tag: float = 0.0


@dataclass(eq=False, slots=True)
class Request(Generic[M]):
    """Texts that arrive together, for one model. All times are seconds of the caller's clock."""

    model: M
    lengths: Sequence[int]
    """Tokens of each text."""
    payloads: Sequence[Any]
    deadline: float | None = None
    """When those of its texts that have not started are taken out of the queue."""
    arrived: float = 0.0
    started: float | None = None
    """When its first run started."""
    waiting: int = 0
    """Texts that are in the queue."""

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(eq=False, slots=True)
class Run(Generic[M]):
    """Texts that run in one batch, now."""

    model: M
    items: list[Item[M]]
    share: Share
    slots: int
    """How many slots it occupies; 0 for an extra run."""
    taken: float
    """When it started."""
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = sum(item.length for item in self.items)


class Full(Exception):
    """The request would exceed the capacity."""


class Scheduler(Generic[M]):
    """Holds the queue. Not safe to use from several threads."""

    def __init__(self, *, capacity: int, slots: int, patience: float) -> None:
        """
        Args:
            capacity: tokens that may wait or run. A larger request is admitted when there is no other.
            slots: runs that may go on at the same time, extra runs not counted.
            patience: seconds that a text may wait for a fuller batch.
        """
        self.capacity = capacity
        self.slots = slots
        self.patience = patience
        self.held = 0
        """Tokens that wait or run."""
        self.waiting_tokens = 0
        self.running: set[Run[M]] = set()
        self._queue: list[Item[M]] = []
        """In ascending order of tags."""
        self._deadlines: list[tuple[float, int, Request[M]]] = []
        """A heap of (deadline, tie-breaker, request)."""
        self._count = itertools.count()
        self._virtual_time = 0.0
        self._unfinished: dict[Request[M], int] = {}
        """Texts of each request that wait or run."""

    @property
    def waiting(self) -> int:
        """Texts in the queue."""
        return len(self._queue)

    def admit(self, request: Request[M], now: float) -> None:
        """Put all texts of a request into the queue. Raises Full, and then has put none."""
        tokens = request.tokens
        if self.held and self.held + tokens > self.capacity:
            raise Full
        if not self.held:
            self._virtual_time = 0.0
        request.arrived, tag = now, self._virtual_time
        for index, (length, payload) in enumerate(zip(request.lengths, request.payloads, strict=True)):
            self._queue.append(Item(request, index, length, payload, tag))
            tag += request.model.cost(length)
        # Stable: of equal tags, the first to arrive stays first.
        self._queue.sort(key=_tag)  # both parts are sorted: linear
        request.waiting = self._unfinished[request] = len(request.lengths)
        self.held += tokens
        self.waiting_tokens += tokens
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, next(self._count), request))

    def take(self, now: float) -> Run[M] | None:
        """Take the next run out of the queue; None when nothing should start now."""
        if not self._queue or self._better_wait(now):
            return None
        busy = sum(run.slots for run in self.running)
        if busy < self.slots:
            group = self._group(self._queue)
            alone = not busy and len(group) == len(self._queue)
            return self._start(group, "all" if alone else "one", self.slots if alone else 1, now)
        if all(run.tokens > LONG for run in self.running):
            group = self._group(item for item in self._queue if item.length <= SHORT)
            kept, total = [], 0
            for item in group:
                total += item.length
                if total <= SHORT:
                    kept.append(item)
            return self._start(kept, "extra", 0, now) if kept else None
        return None

    def finish(self, run: Run[M]) -> None:
        """Count a run as ended, whether it succeeded or failed."""
        self.running.remove(run)
        self.held -= run.tokens
        self._done(run.items)

    def drop(self, request: Request[M]) -> int:
        """Take a request's waiting texts out of the queue, and return how many there were."""
        gone = [item for item in self._queue if item.request is request]
        if gone:
            self._remove(gone)
            self.held -= sum(item.length for item in gone)
            self._done(gone)
        return len(gone)

    def expire(self, now: float) -> list[Request[M]]:
        """Drop the requests whose deadline has passed while some of their texts wait, and return them."""
        late = []
        while self._deadlines and (self._deadlines[0][0] <= now or not self._deadlines[0][2].waiting):
            request = heapq.heappop(self._deadlines)[2]
            if request.waiting:
                self.drop(request)
                late.append(request)
        return late

    def wake(self, now: float) -> float | None:
        """When to call `expire` and `take` although nothing has arrived or ended; None if never."""
        while self._deadlines and not self._deadlines[0][2].waiting:
            heapq.heappop(self._deadlines)
        times = [deadline for deadline, _, _ in self._deadlines[:1]]
        if self._queue and self._better_wait(now):
            times.append(self._oldest() + self.patience)
        return min(times, default=None)

    def _better_wait(self, now: float) -> bool:
        return bool(self.running) and self.waiting_tokens < SHORT and now < self._oldest() + self.patience

    def _oldest(self) -> float:
        return min(item.request.arrived for item in self._queue)

    def _group(self, candidates: Iterable[Item[M]]) -> list[Item[M]]:
        """The first of the candidates, and those that the model's plan puts into one batch with it."""
        remaining = iter(candidates)
        first = next(remaining, None)
        if first is None:
            return []
        same = (item for item in remaining if item.request.model is first.request.model)
        window = [first, *itertools.islice(same, WINDOW - 1)]
        for group in first.request.model.plan([item.length for item in window]):
            if 0 in group:
                return [window[row] for row in sorted(group.tolist())]
        raise AssertionError("a plan left out a text")

    def _start(self, group: list[Item[M]], share: Share, slots: int, now: float) -> Run[M]:
        model = group[0].request.model
        self._virtual_time += sum(model.cost(item.length) for item in group) / len(self._unfinished)
        self._remove(group)
        for item in group:
            if item.request.started is None:
                item.request.started = now
        run = Run(model, group, share, slots, now)
        self.running.add(run)
        return run

    def _done(self, items: list[Item[M]]) -> None:
        for item in items:
            self._unfinished[item.request] -= 1
            if not self._unfinished[item.request]:
                del self._unfinished[item.request]

    def _remove(self, items: list[Item[M]]) -> None:
        gone = set(map(id, items))
        self._queue = [item for item in self._queue if id(item) not in gone]
        for item in items:
            item.request.waiting -= 1
            self.waiting_tokens -= item.length


def _tag(item: Item[Any]) -> float:
    return item.tag
