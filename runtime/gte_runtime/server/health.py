"""Readiness: whether requests are accepted. They are not while the server drains or a model does not answer.

Liveness is something else: a process that answers at all is alive, and should not be killed for being busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from .dispatch import Dispatcher
from .models import ServedModel
from .options import Options
from .pool import Pool
from .refusals import Refusal

log = logging.getLogger("gte_runtime.server")

GRACE = 10.0
"""Seconds that a stopped run may take to end; after that, the process ends."""
STUCK_EXIT = 70
"""Exit code of a server whose model hangs or which lost a thread, so that a supervisor starts another."""


class Health:
    """Watches the runs. When there has been none for a while, it makes one."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        models: Sequence[ServedModel],
        options: Options,
        stop: Callable[[int], None],
        pools: Sequence[Pool] = (),
    ) -> None:
        """Watch the dispatcher's threads, those of `pools`, and the models. `stop` ends the server with an
        exit code.

        Raises:
            NoThread: the system gives no thread for it.
        """
        self.draining = False
        self.problem: str | None = None
        self._dispatcher = dispatcher
        self._models = models
        self._options = options
        self._stop = stop
        # Of its own, since those of the dispatcher may all hang.
        self._checking = Pool(1, "gte-health")
        self._pools = (*pools, self._checking)
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return not self.draining and self.problem is None

    def check(self) -> None:
        """Raises Refusal while requests are not accepted."""
        if self.draining:
            raise Refusal("draining", "the server is stopping; ask another one", headers={"retry-after": "5"})
        if self.problem is not None:
            raise Refusal(
                "not_ready", f"the server is not ready: {self.problem}", headers={"retry-after": "10"}
            )

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # told by `_ended`
                await self._task
        self._checking.shutdown(wait=False, cancel_futures=True)

    async def _watch(self) -> None:
        pause = min(1.0, self._options.stall_timeout / 4, self._options.check_every / 4)
        while True:
            await asyncio.sleep(pause)
            if not (self._dispatcher.whole and all(pool.whole for pool in self._pools)):
                self._end("a thread has ended")
                return
            if stuck := self._dispatcher.stuck(self._options.stall_timeout):
                self._report("a run takes too long")
                self._dispatcher.fail(
                    Refusal("not_ready", "the model does not answer", headers={"retry-after": "10"})
                )
                for run in stuck:
                    run.model.stop(run)
                if self._dispatcher.stuck(self._options.stall_timeout, GRACE):
                    self._end("a run cannot be stopped")
                continue
            quiet = time.monotonic() - self._dispatcher.last_good > self._options.check_every
            if quiet or self.problem is not None:
                await self._try()

    async def _try(self) -> None:
        """Run one text through every model."""
        for model in self._models:
            check = asyncio.get_running_loop().run_in_executor(self._checking, model.check)
            done, _ = await asyncio.wait((check,), timeout=self._options.stall_timeout)
            if not done:
                self._report(f"the model {model.name} does not answer")
                done, _ = await asyncio.wait((check,), timeout=GRACE)
            if not done:
                self._end("the check of a model does not end")
                return
            if (error := check.exception()) is not None:
                self._report(f"the model {model.name} fails ({type(error).__name__})")
                return
        self._dispatcher.last_good = time.monotonic()
        if self.problem is not None:
            log.warning("ready again")
            self.problem = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("bug", exc_info=error)
            self._end("nothing watches the runs")

    def _end(self, problem: str) -> None:
        """End the process, so that a supervisor starts another."""
        self._report(problem)
        log.critical("%s; the process ends", problem)
        self._dispatcher.fail(
            Refusal("not_ready", "the server has to start again", headers={"retry-after": "10"})
        )
        self._stop(STUCK_EXIT)

    def _report(self, problem: str) -> None:
        if self.problem != problem:
            log.error("not ready", extra={"fields": {"reason": problem}})
        self.problem = problem
