"""The server as an ASGI application: a request's way through it, and the list of all its routes.

    path -> route -> host and origin -> key -> readiness -> handler -> answer

Every error on the way is answered in the dialect of the route, never with a page of a framework.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from . import openapi, operation, playground, telemetry
from .body import Disconnected
from .dialects import cohere, dashscope, infinity, native, openai, rerank, root, score, tei
from .exchange import Answer, Exchange, json_answer
from .models import ServedModel
from .options import Options
from .origin import answers_preflight, host_allowed, origin_allowed, origin_is_own
from .refusals import Refusal
from .routes import Route, Table, plain
from .state import ServerState

log = logging.getLogger("gte_runtime.server")

Send = Callable[[dict[str, Any]], Awaitable[None]]

CLIENT_GONE = 499
"""The status that is logged when the client disconnected before the answer, as nginx does."""


def all_routes() -> list[Route]:
    dialects = (native, openai, infinity, tei, rerank, cohere, score, dashscope, root)
    parts = (*dialects, operation, playground)
    return openapi.with_description([route for part in parts for route in part.routes()])


class App:
    """Models and options in, an ASGI application out.

    Any ASGI server may host it, between `start` and `close`.
    """

    def __init__(self, models: Sequence[ServedModel], options: Options) -> None:
        """The first model of each kind is the default one of its kind."""
        self.server = ServerState(models, options)
        self._table = Table(all_routes(), options.url_prefix)
        self._without_prefix = {route.path for route in operation.routes()}

    def start(self, stop: Callable[[int], None] = lambda code: None) -> None:
        """Call it inside the event loop. `stop` ends the server with an exit code."""
        self.server.start(stop)

    async def close(self) -> None:
        await self.server.close()

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send
    ) -> None:
        if scope["type"] != "http":
            return
        # The path as it was sent: a decoded one could be decoded again, to a path with other rules for keys.
        path = self._path((scope.get("raw_path") or scope["path"].encode()).decode("latin-1"))
        x = Exchange(self.server, {**scope, "path": path}, receive)
        route = self._table.nearest(scope["method"], path)
        if route is not None:
            x.dialect = route.dialect
        with telemetry.span(x) as span:
            answer: Answer | None = None
            code = None
            try:
                answer = await self._answer(x, route)
                x.count_answer(len(answer.body))
            except Disconnected:
                self.server.metrics.disconnected.inc()
                code = "disconnected"
            except Refusal as refusal:
                code = refusal.code
                answer = self._refused(x, refusal)
            except asyncio.CancelledError:
                code = "draining"
                answer = self._refused(
                    x, Refusal(code, "the server is stopping", headers={"retry-after": "1"})
                )
            except Exception as error:
                log.error("bug", exc_info=error)
                code = "internal"
                answer = self._refused(
                    x, Refusal(code, "something went wrong here; the server's log says more")
                )
            finally:
                x.release()
            try:
                if answer is not None:
                    await _send(x, answer, send)
            finally:
                x.sent()
            name = route.path if route is not None else "other"
            status = answer.status if answer is not None else CLIENT_GONE
            self._record(x, name, status, code, quiet=route is not None and route.open and status == 200)
            telemetry.end(span, x, name, status, code)

    def _path(self, raw: str) -> str:
        """A path as routes have it, or "" outside of the prefix."""
        path, prefix = plain(raw), self.server.options.url_prefix
        if path == prefix or path.startswith(f"{prefix}/"):
            return path[len(prefix) :] or "/"
        return path if path in self._without_prefix else ""

    async def _answer(self, x: Exchange, nearest: Route | None) -> Answer:
        self._check_sender(x)
        if x.scope["method"] == "OPTIONS" and x.shared_with and b"access-control-request-method" in x.headers:
            asked_for = x.headers[b"access-control-request-method"].decode("latin-1")
            method = self._table.find(asked_for, x.scope["path"]).method
            headers = answers_preflight(x.headers.get(b"access-control-request-headers"), method)
            if x.headers.get(b"access-control-request-private-network") == b"true":
                headers["access-control-allow-private-network"] = "true"
            return Answer(b"", 204, headers=headers)
        if nearest is None or not nearest.open:
            check_key(self.server.options.keys, x.scope["headers"])
        route = self._table.find(x.scope["method"], x.scope["path"])
        if route.needs_ready:
            self.server.health.check()
        return await route.handler(x)

    def _check_sender(self, x: Exchange) -> None:
        """Raises Refusal for what a web page sends that is neither ours nor allowed."""
        options = self.server.options
        hosts = [value for name, value in x.scope["headers"] if name == b"host"]
        if options.check_host and not all(host_allowed(host, options.allow_hosts) for host in hosts):
            raise Refusal(
                "host_not_allowed",
                "the header host is not this machine; ask for localhost, or start it with --allow-host NAME",
            )
        # Behind a proxy that speaks TLS, our own page has another scheme than the request that we see.
        schemes = ("http",) if options.check_host else ("http", "https")
        for origin in (value for name, value in x.scope["headers"] if name == b"origin"):
            if origin_allowed(origin, options.allow_origins):
                x.shared_with = origin.decode("latin-1")
            elif not origin_is_own(origin, x.headers.get(b"host"), schemes) and not (
                x.scope["method"] in ("GET", "HEAD") and x.scope["path"] == "/"
            ):
                raise Refusal(
                    "origin_not_allowed",
                    "the header origin is another web page; start the server with --cors-allow-origin ORIGIN",
                )

    def _refused(self, x: Exchange, refusal: Refusal) -> Answer:
        self.server.metrics.rejected.labels(refusal.code).inc()
        status = x.dialect.status(refusal)
        answer = json_answer(x.dialect.body(refusal, status, x.id), status)
        answer.headers = dict(refusal.headers)
        if refusal.code == "draining" or b"expect" in x.headers:
            # A client that waits for `100 Continue` and gets an error does not send the body, so the next
            # request would be read as that body. In all other cases the connection is kept: the rest of the
            # body is read and thrown away, so that the client comes to read the answer.
            answer.headers["connection"] = "close"
        return answer

    def _record(self, x: Exchange, name: str, status: int, code: str | None, quiet: bool) -> None:
        seconds = time.monotonic() - x.started
        self.server.metrics.requests.labels(name, status).inc()
        self.server.metrics.request_seconds.labels(name).observe(seconds)
        if quiet or not log.isEnabledFor(logging.INFO):
            return
        fields: dict[str, Any] = {
            "request_id": x.id,
            "method": str(x.scope["method"])[:16],
            "route": name,
            "status": status,
            "ms": round(seconds * 1000, 3),
            **x.log_fields(),
        }
        if code is not None:
            fields["code"] = code
        log.info("request", extra={"fields": fields})


def check_key(keys: Sequence[bytes], headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raises Refusal without a valid key; without any keys, all requests are accepted.

    Every key is compared, each in constant time, so that the time taken says nothing about the keys.
    """
    if not keys:
        return
    given = [value for name, value in headers if name == b"authorization"]
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    good = False
    for key in keys:
        good |= hmac.compare_digest(token.strip(), key)
    if not (good and scheme.lower() == b"bearer"):
        raise Refusal(
            "unauthorized",
            "send the header authorization: Bearer KEY",
            headers={"www-authenticate": "Bearer"},
        )


PIECE = 256 * 1024
"""Bytes of an answer that are handed to the connection at a time. The next piece waits until the client has
read most of this one, within `write_timeout`, so what a client does not read is counted, and not copied."""


async def _send(x: Exchange, answer: Answer, send: Send) -> None:
    of_body = [
        (b"content-type", answer.content_type.encode()),
        (b"content-length", str(len(answer.body)).encode()),
    ]
    shared = []
    if x.server.options.allow_origins:
        shared.append((b"vary", b"origin"))
    if x.shared_with:
        shared.append((b"access-control-allow-origin", x.shared_with.encode("latin-1")))
        shared.append((b"access-control-expose-headers", b"*"))
    headers = [
        *(of_body if answer.status != 204 else ()),
        (b"x-request-id", x.id.encode()),
        *shared,
        *((name.encode(), value.encode("latin-1", "replace")) for name, value in x.stage_headers()),
        *((name.encode(), value.encode("latin-1", "replace")) for name, value in answer.headers.items()),
        *(
            (b"x-gte-warning", warning.encode("ascii", "backslashreplace")[:200])
            for warning in x.warnings[:16]
        ),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = memoryview(answer.body)
    for start in range(0, len(body) - PIECE, PIECE):
        await send({"type": "http.response.body", "body": body[start : start + PIECE], "more_body": True})
    rest = bytes(body[max(0, (len(body) - 1) // PIECE * PIECE) :])
    await send({"type": "http.response.body", "body": rest})
