"""One request and its answer, as handlers see them."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import msgspec
import orjson

from .body import Disconnected, check_head, parse, receive_body
from .refusals import Refusal

if TYPE_CHECKING:
    from .app import App
    from .routes import Dialect, Route

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")

PLAIN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
LONGEST_DEADLINE = 24 * 3600 * 1000
FEW_TOKENS = 512
"""Tokens of a request whose answer is put together in the event loop's thread."""

_serialise = orjson.OPT_SERIALIZE_NUMPY


@dataclass(slots=True)
class Answer:
    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(value: Any, status: int = 200) -> Answer:
    """float32 is written in the shortest form that reads back as the same value."""
    return Answer(orjson.dumps(value, option=_serialise), status)


class Exchange:
    """A request on its way. Handlers read it and add to what goes out with the answer."""

    def __init__(
        self, app: App, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]]
    ) -> None:
        self.app = app
        self.scope = scope
        self.started = time.monotonic()
        self.headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            self.headers.setdefault(name, value)
        given = self.headers.get(b"x-request-id", b"")
        self.id = given.decode() if PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
        self.route: Route | None = None
        self.dialect: Dialect | None = None
        """Where the body decides it, not the path."""
        self.times: dict[str, float] = {}
        """Seconds of each stage, by name."""
        self.warnings: list[str] = []
        self.texts = self.tokens = self.truncated = self.characters = 0
        self.stages_in_whole_ms = False
        self._receive = receive
        self._held = self._held_answer = 0

    async def read(self, kind: type[T]) -> T:
        """The body as a request. Raises Refusal, or Disconnected."""
        bits = check_head(self.headers, self.app.options.max_body)
        body = await receive_body(self._receive, self.app.options.max_body, bits, self.hold)
        request, unknown = parse(body, kind, self.app.options.strict)
        if unknown is not None:
            self.warnings.append(f"the field {unknown} is not known here and was ignored")
        return request

    def hold(self, size: int) -> None:
        """Count bytes that this request takes until it is answered. Raises Refusal when all together take too many."""
        self._held += size
        self.app.held += size
        if self.app.held > self.app.options.max_held:
            raise Refusal(
                "overloaded",
                "too many large requests at a time (--max-held); try again later",
                headers={"retry-after": "1"},
            )

    def hold_answer(self, size: int) -> None:
        """The same for an answer, which lasts until it is sent."""
        self.hold(size)
        self._held -= size
        self._held_answer += size

    def release(self) -> None:
        self.app.held -= self._held
        self._held = 0

    def sent(self) -> None:
        self.app.held -= self._held_answer
        self._held_answer = 0

    def timeout(self) -> float | None:
        """Seconds that the client is ready to wait, from the header x-request-timeout-ms. Raises Refusal."""
        raw = self.headers.get(b"x-request-timeout-ms")
        if raw is None:
            return None
        if not raw.isdigit() or not 1 <= int(raw[:20]) <= LONGEST_DEADLINE:
            raise Refusal(
                "invalid_request",
                f"x-request-timeout-ms: expected milliseconds from 1 to {LONGEST_DEADLINE}",
                param="x-request-timeout-ms",
            )
        return max(0.0, int(raw) / 1000 - (time.monotonic() - self.started))

    def segment(self, prefix: str) -> str:
        """What stands behind a path's fixed part."""
        return unquote(str(self.scope["path"])[len(prefix) :])

    async def unless_disconnected(self, work: Awaitable[R]) -> R:
        """The result of work, which is given up when the client leaves. Raises Disconnected."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Disconnected
            return task.result()
        finally:
            for each in (task, gone):
                each.cancel()

    async def in_thread(self, work: Callable[..., R], *arguments: Any) -> R:
        """For what would keep the event loop from others."""
        return await asyncio.get_running_loop().run_in_executor(
            self.app.tokenizing, partial(work, *arguments)
        )

    async def aside(self, work: Callable[..., R], *arguments: Any) -> R:
        """Put an answer together: here when that takes less than a thread's start, else in a thread."""
        return work(*arguments) if self.tokens <= FEW_TOKENS else await self.in_thread(work, *arguments)

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def stage_headers(self) -> Iterable[tuple[str, str]]:
        for name in ("tokenization", "queue", "inference"):
            if name in self.times:
                yield f"x-{name}-time", self._ms(self.times[name])
        yield "x-total-time", self._ms(time.monotonic() - self.started)

    def _ms(self, seconds: float) -> str:
        return str(round(seconds * 1000)) if self.stages_in_whole_ms else f"{seconds * 1000:.3f}"

    def log_fields(self) -> Mapping[str, Any]:
        """Facts for the log: no text, no key, no address."""
        fields: dict[str, Any] = {"texts": self.texts, "tokens": self.tokens} if self.texts else {}
        return fields | {f"{name}_ms": round(seconds * 1000, 3) for name, seconds in self.times.items()}
