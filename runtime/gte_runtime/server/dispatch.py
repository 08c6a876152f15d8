"""Carries out the scheduler's decisions: runs texts in threads, and gives each request its answers.

Everything but the runs happens in the event loop's thread, so it needs no locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..inference.engine import State
from ..inference.session import Share
from ..tokenization import Tokens
from .metrics import Metrics
from .pool import Pool
from .refusals import Refusal
from .scheduler import Full, Model, Request, Run, Scheduler

SMOOTHING = 0.2
"""Weight of the latest run in the measured speed."""
STUCK_FACTOR = 10
"""A run is stuck after this many times what its tokens took lately. Attention makes a token of the longest
text eight times as expensive as one of a short text, and the machine may be busy with something else."""


class Runner(Model, Protocol):
    """A model that runs texts."""

    name: str

    def run(
        self, tokens: Sequence[Tokens], share: Share, owner: object = None
    ) -> Sequence[State | BaseException]:
        """Run one batch. A text that fails has its error in the list."""

    def stop(self, owner: object) -> None:
        """Stop the runs of an owner."""


@dataclass(slots=True)
class Done:
    """What became of a request."""

    answers: list[State | BaseException]
    """What the model gives for each text, or its error."""
    queued: float
    """Seconds until its first run started."""
    running: float
    """Seconds from then to the end of its last run."""


@dataclass(slots=True, eq=False)
class _Waiting:
    answers: list[State | BaseException | None]
    missing: int
    future: asyncio.Future[None]


class Dispatcher:
    """Requests in, answers out."""

    def __init__(
        self, scheduler: Scheduler[Runner], metrics: Metrics, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.scheduler = scheduler
        self.metrics = metrics
        self.last_good = time.monotonic()
        """When a run last succeeded."""
        self._loop = loop
        # One thread more than there are slots, for the extra run of a short text.
        self._pool = Pool(scheduler.slots + 1, "gte-serve")
        self._waiting: dict[Request[Runner], _Waiting] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._seconds_per_token = 0.0

    async def run(self, model: Runner, tokens: Sequence[Tokens], timeout: float | None) -> Done:
        """Run texts, and wait for all of them. When cancelled, it takes those that wait out of the queue.

        Raises:
            Refusal: the queue is full, or the timeout, in seconds, has passed before all texts ran.
        """
        now = time.monotonic()
        lengths = [len(one.ids) for one in tokens]
        request = Request(model, lengths, tokens, None if timeout is None else now + timeout)
        try:
            self.scheduler.admit(request, now)
        except Full:
            raise self.overloaded() from None
        waiting = _Waiting([None] * len(tokens), len(tokens), self._loop.create_future())
        self._waiting[request] = waiting
        self._pump()
        try:
            await waiting.future
        finally:
            del self._waiting[request]
            if waiting.missing and self.scheduler.drop(request):
                self._pump()
        started = request.started or now
        self.metrics.queue_seconds.observe(started - now)
        answers = [answer for answer in waiting.answers if answer is not None]
        return Done(answers, started - now, time.monotonic() - started)

    def overloaded(self) -> Refusal:
        held, capacity = self.scheduler.held, self.scheduler.capacity
        message = (
            f"{held} tokens are waiting or running and the limit is {capacity} (--max-queue-tokens);"
            " try again later"
        )
        return Refusal("overloaded", message, headers={"retry-after": str(self.retry_after())})

    def retry_after(self) -> int:
        """Seconds in which half of what waits or runs should be done, 1 to 60."""
        return max(1, min(60, round(self.scheduler.held * self._seconds_per_token / 2)))

    def stuck(self, limit: float, grace: float = 0.0) -> list[Run[Runner]]:
        """Runs that have taken longer than `limit` seconds, and much longer than recent runs suggest.

        `grace` seconds are added to both.
        """
        now = time.monotonic()
        each = STUCK_FACTOR * self._seconds_per_token * self.scheduler.slots
        return [
            run for run in self.scheduler.running if now - run.taken > max(limit, each * run.tokens) + grace
        ]

    @property
    def whole(self) -> bool:
        """No thread that runs texts has ended."""
        return self._pool.whole

    def fail(self, refusal: Refusal) -> None:
        """Answer all requests that wait for a run with an error."""
        for request, waiting in list(self._waiting.items()):
            self.scheduler.drop(request)
            if not waiting.future.done():
                waiting.future.set_exception(refusal)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _pump(self) -> None:
        """Start whatever should start now, and come back when the scheduler says so."""
        now = time.monotonic()
        for request in self.scheduler.expire(now):
            waiting = self._waiting.get(request)
            if waiting is not None and not waiting.future.done():
                waiting.future.set_exception(
                    Refusal("deadline_exceeded", "the deadline came before the texts could be run")
                )
        while (run := self.scheduler.take(now)) is not None:
            self.metrics.started()
            self._pool.submit(self._run, run)
        if self._timer is not None:
            self._timer.cancel()
        wake = self.scheduler.wake(now)
        self._timer = None if wake is None else self._loop.call_later(max(0.0, wake - now), self._pump)

    def _run(self, run: Run[Runner]) -> None:
        """In a thread of the pool."""
        answers: Sequence[State | BaseException]
        try:
            answers = run.model.run([item.payload for item in run.items], run.share, run)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the requests that wait must get it
            answers = [error] * len(run.items)
        seconds = time.monotonic() - run.taken
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no request waits any more
            self._loop.call_soon_threadsafe(self._ended, run, answers, seconds)

    def _ended(self, run: Run[Runner], answers: Sequence[State | BaseException], seconds: float) -> None:
        self.scheduler.finish(run)
        failed = sum(isinstance(answer, BaseException) for answer in answers)
        self.metrics.ended(run.model.name, [item.length for item in run.items], failed, seconds)
        if failed < len(answers):
            self.last_good = time.monotonic()
            rate = seconds / run.tokens / self.scheduler.slots
            self._seconds_per_token += (
                SMOOTHING * (rate - self._seconds_per_token) if self._seconds_per_token else rate
            )
        for item, answer in zip(run.items, answers, strict=True):
            waiting = self._waiting.get(item.request)
            if waiting is None or waiting.future.done():
                continue
            waiting.answers[item.index] = answer
            waiting.missing -= 1
            if not waiting.missing:
                waiting.future.set_result(None)
        self._pump()
