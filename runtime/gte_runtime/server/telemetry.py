"""A span per request, if OpenTelemetry is installed.

It is configured in OpenTelemetry's own way: by OTEL_* variables and `opentelemetry-instrument gte serve`.
Without a provider the spans cost next to nothing.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

from .exchange import Exchange

try:
    import opentelemetry.propagate as propagate
    import opentelemetry.trace as trace
except ImportError:
    trace = propagate = None  # type: ignore[assignment]


def span(x: Exchange) -> AbstractContextManager[Any]:
    """A span of the client's trace, when the client sends a `traceparent`, or of a new one."""
    if trace is None:
        return contextlib.nullcontext()
    carrier = {
        name: x.headers[name.encode()].decode("latin-1")
        for name in ("traceparent", "tracestate")
        if name.encode() in x.headers
    }
    context = propagate.extract(carrier)
    started: AbstractContextManager[Any] = trace.get_tracer("gte_runtime").start_as_current_span(
        x.scope["method"][:16], context=context, kind=trace.SpanKind.SERVER, record_exception=False
    )
    return started


def end(span: Any, x: Exchange, route: str, status: int, code: str | None) -> None:
    """Put the outcome of a request into its span."""
    if span is None or not span.is_recording():
        return
    span.update_name(f"{x.scope['method'][:16]} {route}")
    facts = {
        "http.request.method": x.scope["method"][:16],
        "http.route": route,
        "http.response.status_code": status,
        "gte.request_id": x.id,
        "gte.texts": x.texts,
        "gte.tokens": x.tokens,
        **{f"gte.{stage}_ms": seconds * 1000 for stage, seconds in x.times.items()},
    }
    if code is not None:
        facts["error.type"] = code
    span.set_attributes(facts)
