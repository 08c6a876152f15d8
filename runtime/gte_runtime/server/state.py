"""What all requests share: the models, the limits, the queue, the counters, and whether the server is ready.

It knows no request, no path and no dialect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from .dispatch import Dispatcher, Runner
from .health import Health
from .metrics import Metrics
from .models import EmbeddingModel, RerankerModel, ServedModel
from .options import Options
from .pool import Pool
from .refusals import Refusal
from .scheduler import Scheduler

M = TypeVar("M", bound=ServedModel)


class ServerState:
    """One for each application. All of it is used in the event loop's thread."""

    dispatcher: Dispatcher
    """Runs texts. Set by `start`."""
    health: Health
    """Set by `start`."""
    tokenizing: Pool
    """For work on texts and answers that would block the event loop. Set by `start`."""

    def __init__(self, models: Sequence[ServedModel], options: Options) -> None:
        """The first model of each kind is the default one of its kind."""
        self.models = list(models)
        self.options = options
        self.created = int(time.time())
        """Unix time of the start."""
        self.metrics = Metrics()
        self.scheduler: Scheduler[Runner] = Scheduler(
            capacity=options.max_queue_tokens,
            slots=max(model.workers for model in models),
            patience=options.patience,
        )
        self.held_bytes = 0
        """Bytes of bodies of requests in flight, and of answers with a vector per token."""
        m, s = self.metrics, self.scheduler
        m.watch(m.queue_tokens, lambda: s.waiting_tokens)
        m.watch(m.queue_texts, lambda: s.waiting)
        m.watch(m.in_flight_tokens, lambda: s.held)
        m.watch(m.ready, lambda: self.health.ready)

    def start(self, stop: Callable[[int], None]) -> None:
        """Start the dispatcher and the watch over it. Call it inside the event loop.

        Args:
            stop: ends the server with an exit code.

        Raises:
            NoThread: the system gives fewer threads than the server needs. It needs no further ones later.
        """
        self.tokenizing = Pool(2, "gte-tokenize")
        self.dispatcher = Dispatcher(self.scheduler, self.metrics, asyncio.get_running_loop())
        self.health = Health(self.dispatcher, self.models, self.options, stop, [self.tokenizing])
        self.health.start()

    async def close(self) -> None:
        await self.health.close()
        self.dispatcher.close()
        self.tokenizing.shutdown(wait=False, cancel_futures=True)

    def embedder(self, name: str | None) -> EmbeddingModel:
        """The embedder that a request names, or the default one. Raises Refusal."""
        return self._model(EmbeddingModel, name)

    def reranker(self, name: str | None) -> RerankerModel:
        """The reranker that a request names, or the default one. Raises Refusal."""
        return self._model(RerankerModel, name)

    def tokenizing_model(self, name: str | None) -> ServedModel:
        """The model that a request names, else the default embedder, else the reranker. Raises Refusal."""
        named = self.named(name)
        if named is not None:
            return named
        embeds = any(isinstance(model, EmbeddingModel) for model in self.models)
        return self.embedder(name) if embeds else self.reranker(name)

    def named(self, name: str | None) -> ServedModel | None:
        """The model of exactly this name, of whatever kind."""
        return next((model for model in self.models if model.name == name), None)

    def hold(self, size: int) -> None:
        """Count bytes that a request takes. Raises Refusal when all requests together take too many."""
        self.held_bytes += size
        if self.held_bytes > self.options.max_held:
            raise Refusal(
                "overloaded",
                "too many large requests at a time (--max-held); try again later",
                headers={"retry-after": "1"},
            )

    def _model(self, kind: type[M], name: str | None) -> M:
        named = self.named(name)
        if isinstance(named, kind):
            return named
        of_kind = [model for model in self.models if isinstance(model, kind)]
        if named is not None or not of_kind:
            have = ", ".join(f"{model.name} ({model.kind})" for model in self.models)
            raise Refusal(
                "wrong_model_kind",
                f"this needs a model of kind {kind.kind}; the server has {have}",
                param="model",
            )
        if name and self.options.strict_model:
            have = ", ".join(model.name for model in of_kind)
            raise Refusal(
                "model_not_found", f"there is no model of this name; there is {have}", param="model"
            )
        return of_kind[0]
