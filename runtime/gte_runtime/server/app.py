"""A request's way through the server, as an ASGI application. Knows no dialect and no socket.

    path -> route -> key -> readiness -> handler -> answer

Whatever goes wrong on the way is told in the route's own dialect; no page of a framework gets out.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..errors import GteError
from ..version import __version__
from . import dialects, telemetry
from .body import Disconnected
from .dispatch import Dispatcher
from .encoding import tokenizing_pool
from .exchange import Answer, Exchange, json_answer
from .health import Health
from .metrics import Metrics
from .models import ServedModel
from .options import Options
from .refusals import Refusal, refusal_of
from .routes import Dialect, Route, Table
from .scheduler import Scheduler

log = logging.getLogger("gte_runtime.server")

Send = Callable[[dict[str, Any]], Awaitable[None]]


class App:
    """Models and options in, an ASGI application out."""

    def __init__(self, models: Sequence[ServedModel], options: Options) -> None:
        """The first model of each kind is the one that answers to any name."""
        self.models = list(models)
        self.options = options
        self.metrics = Metrics()
        self.table = Table(dialects.routes())
        self.version = __version__
        self.clock = time.time
        self.created = int(time.time())
        self.held = 0
        """Bytes of bodies in flight, and of answers with a vector per token."""
        slots = max(model.workers for model in models)
        self.scheduler = Scheduler(capacity=options.max_queue_tokens, slots=slots, patience=options.patience)
        self.dispatcher: Dispatcher
        self.health: Health
        self.tokenizing = tokenizing_pool()
        m, s = self.metrics, self.scheduler
        m.watch(m.queue_tokens, lambda: s.waiting_tokens)
        m.watch(m.queue_texts, lambda: s.waiting)
        m.watch(m.in_flight_tokens, lambda: s.held)
        m.watch(m.ready, lambda: self.health.ready)

    def start(self, stop: Callable[[int], None] = lambda code: None) -> None:
        """Inside the event loop. `stop` ends the server with an exit code."""
        loop = asyncio.get_running_loop()
        self.dispatcher = Dispatcher(self.scheduler, self.metrics, loop)
        self.health = Health(self.dispatcher, self.models, self.options, stop)
        self.health.start()

    async def close(self) -> None:
        await self.health.close()
        self.dispatcher.close()
        self.tokenizing.shutdown(wait=False, cancel_futures=True)

    def model(self, x: Exchange, name: str | None, kind: str) -> Any:
        """The model that a request means. Raises Refusal when there is none."""
        named = [model for model in self.models if model.name == name]
        of_kind = [model for model in self.models if model.kind == kind]
        if named and named[0].kind == kind:
            return named[0]
        if named or not of_kind:
            have = ", ".join(f"{model.name} ({model.kind})" for model in self.models)
            raise Refusal(
                "wrong_model_kind", f"this needs a model of kind {kind}; the server has {have}", param="model"
            )
        if name and self.options.strict_model:
            have = ", ".join(model.name for model in of_kind)
            raise Refusal(
                "model_not_found", f"there is no model of this name; there is {have}", param="model"
            )
        return of_kind[0]

    def refusal(self, error: BaseException, place: str) -> Refusal:
        """What is told of an error of the engine; what is not the text's fault goes to the log."""
        if isinstance(error, GteError):
            refusal = refusal_of(error, place)
            if refusal.code == "internal":
                log.error(
                    "run failed",
                    extra={"fields": {"error": type(error).__name__, "reason": str(error)[:300]}},
                )
            return refusal
        log.error("run failed", exc_info=error)
        return Refusal("internal", "the model could not be run; the server's log says more")

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send
    ) -> None:
        if scope["type"] != "http":
            return
        # Only bytes as they came decide: a decoded path could be another one for whoever decodes it next.
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        scope = {**scope, "path": path}
        x = Exchange(self, scope, receive)
        with telemetry.span(x) as span:
            answer: Answer | None = None
            code = None
            try:
                answer = await self._answer(x)
            except Disconnected:
                self.metrics.disconnected.inc()
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
                    await self._send(x, answer, send)
            finally:
                x.sent()
            self._record(x, answer, code)
            telemetry.end(span, x, answer, code)

    async def _answer(self, x: Exchange) -> Answer:
        path, method = x.scope["path"], x.scope["method"]
        methods = self.table.at(path)
        x.route = methods.get("GET" if method == "HEAD" else method) or next(iter(methods.values()), None)
        if not (x.route is not None and x.route.open):
            self._check_key(x)
        route = self.table.find(method, path)
        if route.needs_ready:
            self.health.check()
        return await route.handler(x)

    def _check_key(self, x: Exchange) -> None:
        """Raises Refusal. All keys are compared, each in constant time, so that time tells nothing about them."""
        if not self.options.keys:
            return
        given = [value for name, value in x.scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        good = False
        for key in self.options.keys:
            good |= hmac.compare_digest(token.strip(), key)
        if not (good and scheme.lower() == b"bearer"):
            raise Refusal(
                "unauthorized",
                "send the header authorization: Bearer KEY",
                headers={"www-authenticate": "Bearer"},
            )

    def _dialect(self, x: Exchange) -> Dialect:
        if x.dialect is not None:
            return x.dialect
        return x.route.dialect if x.route is not None else dialects.NATIVE

    def _refused(self, x: Exchange, refusal: Refusal) -> Answer:
        self.metrics.rejected.labels(refusal.code).inc()
        dialect = self._dialect(x)
        status = dialect.status(refusal)
        answer = json_answer(dialect.error(refusal, status, x.id), status)
        answer.headers = dict(refusal.headers)
        if refusal.code == "draining" or b"expect" in x.headers:
            # Who waits for `100 Continue` and gets this does not send the body; what comes next would be taken for it.
            # Otherwise the connection stays: what is still sent is thrown away, and the client comes to read the answer.
            answer.headers["connection"] = "close"
        return answer

    async def _send(self, x: Exchange, answer: Answer, send: Send) -> None:
        headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
            (b"x-request-id", x.id.encode()),
            *((name.encode(), value.encode("latin-1", "replace")) for name, value in x.stage_headers()),
            *((name.encode(), value.encode("latin-1", "replace")) for name, value in answer.headers.items()),
            *(
                (b"x-gte-warning", warning.encode("ascii", "backslashreplace")[:200])
                for warning in x.warnings[:8]
            ),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _record(self, x: Exchange, answer: Answer | None, code: str | None) -> None:
        seconds = time.monotonic() - x.started
        name = _route_name(x.route)
        status = answer.status if answer is not None else 499
        self.metrics.requests.labels(name, status).inc()
        self.metrics.request_seconds.labels(name).observe(seconds)
        if log.isEnabledFor(logging.INFO) and not (x.route is not None and x.route.open and status == 200):
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


def _route_name(route: Route | None) -> str:
    return route.path if route is not None else "other"
