"""Carries out what the scheduler decides: runs in threads, answers back to those who wait.

All of it but the runs happens in the event loop's thread, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from ..inference.session import Share
from .metrics import Metrics
from .refusals import Refusal
from .scheduler import Full, Model, Request, Run, Scheduler

SMOOTHING = 0.2
"""Weight of the latest run in the measured speed."""
TIMES = 10
"""A run may take this many times what its tokens took lately before it counts as stuck: attention makes a token of the
longest text eight times as dear as one of a short text, and a machine may be busy with other things."""


class Runner(Model, Protocol):
    """What the dispatcher asks of a model."""

    name: str

    def run(self, tokens: Sequence[Any], share: Share, owner: object) -> list[Any]: ...
    def stop(self, owner: object) -> None: ...


@dataclass(slots=True)
class Done:
    """What became of a request."""

    answers: list[Any]
    """For each text what the model says, or a GteError."""
    queued: float
    """Seconds until its first run started."""
    running: float
    """Seconds from there to the end of its last."""


@dataclass(slots=True, eq=False)
class _Waiting:
    answers: list[Any]
    missing: int
    future: asyncio.Future[None]


class Dispatcher:
    """Requests in, answers out."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self.scheduler = scheduler
        self.metrics = metrics
        self.last_good = time.monotonic()
        """When a run last came back with an answer."""
        self._loop = loop
        # One more than there are slots, for a short run beside long ones.
        self._pool = ThreadPoolExecutor(scheduler.slots + 1, thread_name_prefix="gte-serve")
        self._waiting: dict[Request, _Waiting] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._seconds_per_token = 0.0

    async def run(
        self, model: Runner, lengths: Sequence[int], payloads: Sequence[Any], timeout: float | None
    ) -> Done:
        """Wait for the answers to all texts. Cancelling takes those that wait out of the queue.

        Raises:
            Refusal: no room, or the deadline came first.
        """
        now = time.monotonic()
        request = Request(model, lengths, payloads, None if timeout is None else now + timeout)
        try:
            self.scheduler.admit(request, now)
        except Full:
            raise self.overloaded() from None
        waiting = _Waiting([None] * len(payloads), len(payloads), self._loop.create_future())
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
        return Done(waiting.answers, started - now, time.monotonic() - started)

    def overloaded(self) -> Refusal:
        held, capacity = self.scheduler.held, self.scheduler.capacity
        words = f"{held} tokens are waiting or running and the limit is {capacity} (--max-queue-tokens); try again later"
        return Refusal("overloaded", words, headers={"retry-after": str(self.retry_after())})

    def retry_after(self) -> int:
        """Seconds in which half of what is held should be done, 1 to 60."""
        return max(1, min(60, round(self.scheduler.held * self._seconds_per_token / 2)))

    def stuck(self, limit: float, grace: float = 0.0) -> list[Run]:
        """Runs that take longer than `limit` seconds, and than runs of late on this machine would make one expect, by `grace` seconds."""
        now, each = time.monotonic(), TIMES * self._seconds_per_token * self.scheduler.slots
        return [
            run for run in self.scheduler.running if now - run.taken > max(limit, each * run.tokens) + grace
        ]

    def fail(self, refusal: Refusal) -> None:
        """Answer everybody who waits with an error."""
        for request, waiting in list(self._waiting.items()):
            self.scheduler.drop(request)
            if not waiting.future.done():
                waiting.future.set_exception(refusal)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _pump(self) -> None:
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

    def _run(self, run: Run) -> None:
        """In a thread of the pool."""
        try:
            answers: list[Any] = run.model.run([item.payload for item in run.items], run.share, run)  # type: ignore[attr-defined]
        except BaseException as error:  # noqa: BLE001 - whatever it was, those who wait must hear of it
            answers = [error] * len(run.items)
        seconds = time.monotonic() - run.taken
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._ended, run, answers, seconds)

    def _ended(self, run: Run, answers: list[Any], seconds: float) -> None:
        self.scheduler.finish(run)
        self.metrics.ended(run, answers, seconds)
        if not all(isinstance(answer, BaseException) for answer in answers):
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


def first_error(answers: Sequence[Any]) -> tuple[int, BaseException] | None:
    """The first text that failed."""
    return next(((i, a) for i, a in enumerate(answers) if isinstance(a, BaseException)), None)
