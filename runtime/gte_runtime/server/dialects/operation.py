"""For those who run the server: health, metrics, and what there is."""

from __future__ import annotations

import time

from ..exchange import Answer, Exchange, json_answer
from ..openapi import document
from ..routes import Handler, Route
from .native import DIALECT


async def live(x: Exchange) -> Answer:
    """The process answers. Not to be asked whether to send it requests."""
    return json_answer({"status": "live"})


async def ready(x: Exchange) -> Answer:
    """Requests are taken; otherwise 503."""
    x.app.health.check()
    return json_answer({"status": "ready", "unix": time.time()})


async def metrics(x: Exchange) -> Answer:
    return Answer(x.app.metrics.page(), content_type=x.app.metrics.content_type)


async def openapi(x: Exchange) -> Answer:
    return json_answer(document(x.app.table.routes, x.app.version))


def routes() -> list[Route]:
    def get(path: str, handler: Handler, summary: str, is_open: bool = True) -> Route:
        return Route(
            method="GET",
            path=path,
            handler=handler,
            dialect=DIALECT,
            open=is_open,
            needs_ready=False,
            summary=summary,
        )

    return [
        get("/health", ready, "Whether requests are taken"),
        get("/health/ready", ready, "Whether requests are taken"),
        get("/health/live", live, "Whether the process answers"),
        get("/ping", ready, "Whether requests are taken"),
        get("/metrics", metrics, "Prometheus metrics"),
        get("/openapi.json", openapi, "This description", is_open=False),
    ]
