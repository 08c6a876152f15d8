"""Every error of the server: its code, its status in each dialect, and its body in our own dialect.

Pure. A message names the field and what to do. It never holds a path, a key, an address, or more than a few
characters of what was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import (
    BundleError,
    Cancelled,
    ConfigError,
    GteError,
    InputError,
    InputTooLongError,
    NonFiniteOutputError,
    NoThread,
    OutOfMemory,
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """The HTTP statuses of a code."""

    status: int
    """In our own dialect: 413 for too many bytes, 422 for a value, 400 for syntax."""
    folded: int
    """For OpenAI, Cohere, Jina and vLLM, whose clients expect 400 wherever the request is at fault."""
    tei: int
    tei_type: str
    """TEI's `error_type`."""


def _input(tei: int = 422, tei_type: str = "Validation") -> Meaning:
    return Meaning(422, 400, tei, tei_type)


def _same(status: int, tei_type: str = "Validation") -> Meaning:
    return Meaning(status, status, status, tei_type)


CODES: Mapping[str, Meaning] = {
    "invalid_json": _same(400),
    "invalid_utf8": _same(400),
    "invalid_request": _same(400),
    "invalid_type": _input(),
    "missing_field": _input(),
    "unknown_field": _input(),
    "unsupported_field": _input(),
    "contradiction": _input(),
    "invalid_value": _input(),
    "invalid_unicode": _input(),
    "unknown_prompt": _input(),
    "invalid_dimensions": _input(),
    "empty_input": _input(400, "Empty"),
    "text_too_long": _input(),
    "too_many_inputs": _input(),
    "request_too_large": _input(),
    "unauthorized": _same(401),
    "host_not_allowed": _same(403),
    "origin_not_allowed": _same(403),
    "not_found": _same(404),
    "model_not_found": _same(404),
    "method_not_allowed": _same(405),
    "request_timeout": _same(408),
    "payload_too_large": _same(413),
    "unsupported_media_type": _same(415),
    "headers_too_large": _same(431),
    "overloaded": _same(429, "Overloaded"),
    "wrong_model_kind": _input(424, "Backend"),
    "non_finite_output": Meaning(500, 500, 424, "Backend"),
    "out_of_memory": _same(503, "Backend"),
    "not_ready": _same(503, "Unhealthy"),
    "draining": _same(503, "Unhealthy"),
    "too_many_connections": _same(503, "Overloaded"),
    "deadline_exceeded": _same(504, "Backend"),
    "internal": _same(500, "Backend"),
}


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(
        self, code: str, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        """The field at fault, such as `input[17]`."""
        self.headers = dict(headers or {})

    @property
    def meaning(self) -> Meaning:
        return CODES[self.code]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a family of clients reads errors."""

    name: str
    status: Callable[[Refusal], int]
    body: Callable[[Refusal, int, str], Any]
    """(refusal, status, request id) -> the body, for JSON."""


ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(refusal: Refusal, status: int, request_id: str) -> dict[str, Any]:
    """An error in the shape that OpenAI's clients read, with the request id added."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    facts = {
        "message": refusal.message,
        "type": kind,
        "param": refusal.param,
        "code": refusal.code,
        "request_id": request_id,
    }
    return {"error": facts}


NATIVE = Dialect("native", lambda refusal: refusal.meaning.status, error_body)
"""Our own dialect. It also answers where no other is known: at unknown paths, and before a path is read."""


def refusal_of(error: GteError, place: str) -> Refusal:
    """A library error as a refusal. `place` is the field at fault, such as `input[3]`."""
    if isinstance(error, InputTooLongError):
        reason = f"{error.got}, the limit is {error.limit}; shorten the text or set truncate to true"
        return Refusal("text_too_long", f"{place}: {reason}", param=place)
    if isinstance(error, InputError):
        if error.got == "a lone surrogate":
            reason = f"{error.reason.partition(';')[0]}; send both halves of a pair"
            return Refusal("invalid_unicode", f"{place}: {reason}", param=place)
        return Refusal("invalid_type", f"{place}: {error.reason}", param=place)
    if isinstance(error, ConfigError):
        return Refusal("invalid_value", str(error)[:200], param=place)
    if isinstance(error, NonFiniteOutputError):
        # The same text would give the same result again, so clients that retry on 500 should not.
        message = f"{place}: the model gave a vector that is not finite"
        return Refusal("non_finite_output", message, param=place, headers={"x-should-retry": "false"})
    if isinstance(error, OutOfMemory):
        return Refusal(
            "out_of_memory",
            "out of memory during the run; send fewer or shorter texts",
            headers={"retry-after": "5"},
        )
    if isinstance(error, NoThread):
        return Refusal("not_ready", "the machine has no thread left; try again", headers={"retry-after": "5"})
    if isinstance(error, Cancelled):
        return Refusal("not_ready", "the run was stopped; try again", headers={"retry-after": "1"})
    if isinstance(error, BundleError):
        message = "the model's files were changed while it ran; the server has to be started again"
        return Refusal("not_ready", message, headers={"retry-after": "30"})
    return Refusal("internal", "the model could not be run; the server's log says more")
