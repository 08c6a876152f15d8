"""Routes for those who run the server: health and metrics."""

from __future__ import annotations

import time

from .exchange import Answer, Exchange, json_answer
from .refusals import NATIVE
from .routes import Handler, Route


async def live(x: Exchange) -> Answer:
    """The process answers. It says nothing about whether requests are accepted."""
    return json_answer({"status": "live"})


async def ready(x: Exchange) -> Answer:
    """Requests are accepted; otherwise 503."""
    x.server.health.check()
    return json_answer({"status": "ready", "unix": time.time()})


async def metrics(x: Exchange) -> Answer:
    return Answer(x.server.metrics.page(), content_type=x.server.metrics.content_type)


def routes() -> list[Route]:
    def get(path: str, handler: Handler, summary: str) -> Route:
        return Route(
            method="GET",
            path=path,
            handler=handler,
            dialect=NATIVE,
            open=True,
            needs_ready=False,
            summary=summary,
        )

    return [
        get("/health", ready, "Whether requests are taken"),
        get("/health/ready", ready, "Whether requests are taken"),
        get("/health/live", live, "Whether the process answers"),
        get("/ping", ready, "Whether requests are taken"),
        get("/metrics", metrics, "Prometheus metrics"),
    ]
