"""One request and its answer, as handlers see them."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
import orjson

from .body import Disconnected, check_head, names, parse, receive_body
from .models import ServedModel
from .refusals import NATIVE, Dialect, Refusal
from .state import ServerState

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")

PLAIN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
LONGEST_TIMEOUT_MS = 24 * 3600 * 1000
FEW_BYTES = 32 * 1024
"""Up to so many bytes, reading a body takes less time than handing it to a thread. Smaller answers are not
counted as memory either."""
ITEMS = 64
"""Items of a list that are written to JSON at a time, because that holds the interpreter's lock. With a
vector of 768 values each they take some 2 milliseconds."""
FEW_TOKENS = 512
"""Up to so many tokens, writing an answer takes less time than handing it to a thread."""


@dataclass(slots=True)
class Answer:
    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer in JSON. float32 is written in the shortest form that reads back as the same value."""
    return Answer(_json(value), status)


def written(value: Any) -> bytes:
    """As `json_answer`, a part at a time, so that other threads run in between."""
    if isinstance(value, list) and len(value) > ITEMS:
        parts = [_json(value[start : start + ITEMS])[1:-1] for start in range(0, len(value), ITEMS)]
        return b"[" + b",".join(parts) + b"]"
    if isinstance(value, dict):
        value = {
            name: orjson.Fragment(written(part)) if isinstance(part, (list, dict)) else part
            for name, part in value.items()
        }
    return _json(value)


def fragment(value: Any) -> orjson.Fragment:
    """A part of an answer in JSON already: one bytes object in the place of many others."""
    return orjson.Fragment(_json(value))


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


class Exchange:
    """A request in progress. Handlers read it, and set what is sent or logged with the answer."""

    def __init__(
        self, server: ServerState, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]]
    ) -> None:
        self.server = server
        self.scope = scope
        self.started = time.monotonic()
        self.headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            self.headers.setdefault(name, value)
        given = self.headers.get(b"x-request-id", b"")
        self.id = given.decode() if PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
        self.dialect: Dialect = NATIVE
        """Of an error. It follows from the path; a handler sets it where it follows from the body."""
        self.model: ServedModel | None = None
        """The model that was asked to run texts."""
        self.times: dict[str, float] = {}
        """Seconds of each stage, by name."""
        self.warnings: list[str] = []
        """Sent in the header x-gte-warning."""
        self.texts = self.tokens = self.truncated = self.characters = self.body_bytes = 0
        self.stages_in_whole_ms = False
        """Write the times of the stages as TEI does."""
        self._receive = receive
        self.shared_with = ""
        """The origin of a web page that may read the answer."""
        self._held = self._held_answer = 0
        self._received: bytes | None = None

    async def read(self, kind: type[T]) -> T:
        """The body as a request of this type. Raises Refusal, or Disconnected."""
        options = self.server.options
        body = await self._body()
        self._received = None  # the texts are in the request now
        read = parse, body, kind, options.strict, options.max_values
        request, warnings = read[0](*read[1:]) if len(body) <= FEW_BYTES else await self.in_thread(*read)
        self.warnings += warnings
        return request

    async def names(self) -> dict[str, bool]:
        """The body's fields, which tell dialects apart; false for those that are null. Raises as `read`."""
        body = await self._body()
        if len(body) <= FEW_BYTES:
            return names(body, self.server.options.max_values)
        return await self.in_thread(names, body, self.server.options.max_values)

    async def _body(self) -> bytes:
        if self._received is None:
            limit = self.server.options.max_body
            bits = check_head(self.headers, limit)
            self._received = await receive_body(self._receive, limit, bits, self.hold)
            self.body_bytes = len(self._received)
        return self._received

    def hold(self, size: int) -> None:
        """Count bytes that this request takes until `release`. Raises Refusal as `ServerState.hold` does."""
        self._held += size
        self.server.hold(size)

    def hold_answer(self, size: int) -> None:
        """Count bytes that the answer takes until `sent`. Raises Refusal as `hold` does."""
        self.hold(size)
        self._held -= size
        self._held_answer += size

    def count_answer(self, size: int) -> None:
        """Count what an answer of so many bytes takes beyond what `hold_answer` has counted."""
        if size > FEW_BYTES and size > self._held_answer:
            self.hold_answer(size - self._held_answer)

    def hold_echo(self) -> None:
        """The answer will hold the texts of the request: they are counted before they are run."""
        self.count_answer(self.body_bytes)

    def release(self) -> None:
        """The handler has ended."""
        self.server.held_bytes -= self._held
        self._held = 0

    def sent(self) -> None:
        """The answer has been sent."""
        self.server.held_bytes -= self._held_answer
        self._held_answer = 0

    def named(self, request_id: str | None) -> None:
        """Take the id that the body gives, unless a header gave one."""
        if request_id is None or b"x-request-id" in self.headers:
            return
        if PLAIN_ID.fullmatch(request_id.encode()):
            self.id = request_id
        else:
            self.warnings.append("request_id was not taken: expected 1 to 64 of A-Z a-z 0-9 . _ : -")

    def timeout(self) -> float | None:
        """Seconds left of the client's header x-request-timeout-ms; None without it. Raises Refusal."""
        raw = self.headers.get(b"x-request-timeout-ms")
        if raw is None:
            return None
        if not raw.isdigit() or not 1 <= int(raw[:20]) <= LONGEST_TIMEOUT_MS:
            raise Refusal(
                "invalid_request",
                f"x-request-timeout-ms: expected milliseconds from 1 to {LONGEST_TIMEOUT_MS}",
                param="x-request-timeout-ms",
            )
        return max(0.0, int(raw) / 1000 - (time.monotonic() - self.started))

    def segment(self, prefix: str) -> str:
        """The path after its fixed part, decoded."""
        return unquote(str(self.scope["path"])[len(prefix) :])

    async def unless_disconnected(self, work: Awaitable[R]) -> R:
        """The result of work, which is cancelled when the client disconnects. Raises Disconnected."""
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
        """Run what would block the event loop in a thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self.server.tokenizing, partial(work, *arguments)
        )

    async def answer(self, value: Any) -> Answer:
        """An answer in JSON, written in a thread if it is large."""
        if self.tokens <= FEW_TOKENS and self.body_bytes <= FEW_BYTES:
            return json_answer(value)
        return Answer(await self.in_thread(written, value))

    async def in_thread_if_large(self, work: Callable[..., R], *arguments: Any) -> R:
        """Write a part of the answer: in a thread if the request has many tokens or long texts, else here."""
        if self.tokens <= FEW_TOKENS and self.characters <= FEW_BYTES:
            return work(*arguments)
        return await self.in_thread(work, *arguments)

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
        """Fields for the log: no text, no key, no address."""
        fields: dict[str, Any] = {"texts": self.texts, "tokens": self.tokens} if self.texts else {}
        return fields | {f"{name}_ms": round(seconds * 1000, 3) for name, seconds in self.times.items()}
