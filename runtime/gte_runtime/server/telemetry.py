"""A span per request, if OpenTelemetry is installed. It is set up as its users do it: by OTEL_* variables and
`opentelemetry-instrument gte serve`; without a provider the spans cost next to nothing."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

try:
    import opentelemetry.propagate as propagate
    import opentelemetry.trace as trace
except ImportError:
    trace = propagate = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from .exchange import Answer, Exchange


def span(x: Exchange) -> AbstractContextManager[Any]:
    """Continues the client's trace when it sends a `traceparent`."""
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


def end(span: Any, x: Exchange, answer: Answer | None, code: str | None) -> None:
    if span is None or not span.is_recording():
        return
    name = x.route.path if x.route is not None else "other"
    span.update_name(f"{x.scope['method'][:16]} {name}")
    facts = {
        "http.request.method": x.scope["method"][:16],
        "http.route": name,
        "http.response.status_code": answer.status if answer is not None else 499,
        "gte.request_id": x.id,
        "gte.texts": x.texts,
        "gte.tokens": x.tokens,
        **{f"gte.{stage}_ms": seconds * 1000 for stage, seconds in x.times.items()},
    }
    if code is not None:
        facts["error.type"] = code
    span.set_attributes(facts)
