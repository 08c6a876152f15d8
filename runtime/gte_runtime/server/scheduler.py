"""Who runs next, and with whom. Pure: the clock is an argument, there is no thread, no sleep and no socket.

Admission counts tokens, queued and running. A request comes in whole or not at all.

Order is fair queueing by start tags (SFQ, Goyal et al. 1996; the clock is that of generalised processor
sharing, Parekh and Gallager 1993). The clock counts the cost of what has been started, divided by the
number of requests that were there to share it. A text's tag is

    the clock when its request came in + cost of the request's texts before it

and lower tags go first; of equals, the one that came first. So requests of one text go in the order in
which they come, whatever their length, and of a request of 2048 documents only so many go before a
later query as would have, had the two shared the machine evenly.

What is promised, and tested:

1. Every ordinary run holds the text with the lowest tag of all that wait. So a text waits for at most
   as many runs to start as there are texts with lower tags.
2. Nothing that comes in later goes before the first text of a request, except in a run that was due anyway.
   In a large request, a text waits for at most its share: others get as much each as went before it.
3. A short text never waits for a long run. When all slots hold runs of more than LONG tokens, texts of
   up to SHORT tokens that wait may start one more run, which shares the processors with the others.
4. Waiting for company is bounded: only while something runs, only while less than SHORT tokens wait,
   and never longer than `patience`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

SHORT = 256
"""Tokens that fill a run well enough to stop waiting for more."""
LONG = 1024
"""Tokens of a run from which on it keeps others waiting noticeably."""
WINDOW = 64
"""Texts that are looked at to form a run. Planning takes time too: 3 ms for 64 different lengths."""

Share = Literal["one", "all", "extra"]


class Model(Protocol):
    """What the scheduler asks of a model."""

    def plan(self, lengths: Sequence[int]) -> list[NDArray[np.int64]]:
        """Groups of positions that run together."""

    def cost(self, length: int) -> float:
        """Of a text of this many tokens."""


@dataclass(eq=False, slots=True)
class Item:
    """One text that waits."""

    request: Request
    index: int
    length: int
    payload: Any
    tag: float = 0.0


@dataclass(eq=False, slots=True)
class Request:
    """Texts that come in together, for one model."""

    model: Model
    lengths: Sequence[int]
    payloads: Sequence[Any]
    deadline: float | None = None
    arrived: float = 0.0
    started: float | None = None
    """When its first run was taken."""
    waiting: int = 0
    """Texts that are in the queue."""

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(eq=False, slots=True)
class Run:
    """Texts that run together, now."""

    model: Model
    items: list[Item]
    share: Share
    slots: int
    taken: float
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = sum(item.length for item in self.items)


class Full(Exception):
    """There is no room for the request."""


class Scheduler:
    """Not safe to use from several threads: one owner asks and is told."""

    def __init__(self, *, capacity: int, slots: int, patience: float) -> None:
        """
        Args:
            capacity: tokens that may wait or run. A request that is larger by itself comes in when there is nothing else.
            slots: runs that may go on at the same time.
            patience: seconds that a text may wait for company.
        """
        self.capacity = capacity
        self.slots = slots
        self.patience = patience
        self.held = 0
        """Tokens that wait or run."""
        self.waiting_tokens = 0
        self.running: set[Run] = set()
        self._queue: list[Item] = []  # ascending tags
        self._deadlines: list[tuple[float, int, Request]] = []
        self._count = itertools.count()
        self._clock = 0.0
        self._unfinished: dict[Request, int] = {}

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def admit(self, request: Request, now: float) -> None:
        """Raises Full; then nothing of the request is in the queue."""
        tokens = request.tokens
        if self.held and self.held + tokens > self.capacity:
            raise Full
        if not self.held:
            self._clock = 0.0
        request.arrived, tag = now, self._clock
        for index, (length, payload) in enumerate(zip(request.lengths, request.payloads, strict=True)):
            self._queue.append(Item(request, index, length, payload, tag))
            tag += request.model.cost(length)
        self._queue.sort(key=_tag)  # two sorted pieces: linear, and stable, so the first to come stays first
        request.waiting = self._unfinished[request] = len(request.lengths)
        self.held += tokens
        self.waiting_tokens += tokens
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, next(self._count), request))

    def take(self, now: float) -> Run | None:
        """The next run, or None when nothing should start now."""
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

    def finish(self, run: Run) -> None:
        """The run has ended, however it did."""
        self.running.remove(run)
        self.held -= run.tokens
        self._done(run.items)

    def drop(self, request: Request) -> int:
        """Take a request's waiting texts out of the queue; how many there were."""
        gone = [item for item in self._queue if item.request is request]
        if gone:
            self._remove(gone)
            self.held -= sum(item.length for item in gone)
            self._done(gone)
        request.deadline = None
        return len(gone)

    def expire(self, now: float) -> list[Request]:
        """Take out requests of which texts still wait at their deadline."""
        late = []
        while self._deadlines and (self._deadlines[0][0] <= now or not self._deadlines[0][2].waiting):
            request = heapq.heappop(self._deadlines)[2]
            if request.waiting and request.deadline is not None:
                self.drop(request)
                late.append(request)
        return late

    def wake(self, now: float) -> float | None:
        """When to ask again although nothing has come in or ended."""
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

    def _group(self, candidates: Iterable[Item]) -> list[Item]:
        """The texts that go with the first of the candidates."""
        first = next(iter(candidates), None) if not isinstance(candidates, list) else candidates[0]
        if first is None:
            return []
        rest = candidates if not isinstance(candidates, list) else candidates[1:]
        same = (item for item in rest if item.request.model is first.request.model)
        window = [first, *itertools.islice(same, WINDOW - 1)]
        for group in first.request.model.plan([item.length for item in window]):
            if 0 in group:
                return [window[row] for row in sorted(group.tolist())]
        raise AssertionError("a plan left out a text")

    def _start(self, group: list[Item], share: Share, slots: int, now: float) -> Run:
        model = group[0].request.model
        self._clock += sum(model.cost(item.length) for item in group) / len(self._unfinished)
        self._remove(group)
        for item in group:
            if item.request.started is None:
                item.request.started = now
        run = Run(model, group, share, slots, now)
        self.running.add(run)
        return run

    def _done(self, items: list[Item]) -> None:
        for item in items:
            self._unfinished[item.request] -= 1
            if not self._unfinished[item.request]:
                del self._unfinished[item.request]

    def _remove(self, items: list[Item]) -> None:
        gone = set(map(id, items))
        self._queue = [item for item in self._queue if id(item) not in gone]
        for item in items:
            item.request.waiting -= 1
            self.waiting_tokens -= item.length


def _tag(item: Item) -> float:
    return item.tag
