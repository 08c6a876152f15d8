"""A span per request, and OpenTelemetry's own histogram of their durations, if OpenTelemetry is installed.

It is configured in OpenTelemetry's own way: by OTEL_* variables and `opentelemetry-instrument gte serve`.
Without a provider both cost next to nothing. Names that begin with `gen_ai.` are those of OpenTelemetry's
conventions for generative AI (https://opentelemetry.io/docs/specs/semconv/gen-ai/), by which dashboards find
servers of any make; names that begin with `gte.` are ours.
"""

from __future__ import annotations

import contextlib
import time
from contextlib import AbstractContextManager
from typing import Any

from .exchange import Exchange

try:
    import opentelemetry.metrics as metrics
    import opentelemetry.propagate as propagate
    import opentelemetry.trace as trace
except ImportError:
    trace = propagate = metrics = None  # type: ignore[assignment]

OPERATIONS = {"embedder": "embeddings", "reranker": "rerank"}
"""`gen_ai.operation.name` by the kind of a model. The conventions have no word for the second yet."""
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bounds of the buckets that the conventions ask for."""


def _duration() -> Any:
    make = metrics.get_meter("gte_runtime").create_histogram
    about = ("gen_ai.server.request.duration", "s", "From a request's head to its answer.")
    try:
        return make(*about, explicit_bucket_boundaries_advisory=SECONDS)
    except TypeError:  # OpenTelemetry before 1.30
        return make(*about)


_durations = None if metrics is None else _duration()


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
    """Put the outcome of a request into its span, and a model's work into the histogram."""
    if span is None:
        return
    error = {} if code is None else {"error.type": code}
    model = _model(x)
    if model:
        _durations.record(time.monotonic() - x.started, model | error)
    if not span.is_recording():
        return
    span.update_name(f"{x.scope['method'][:16]} {route}")
    span.set_attributes(
        {
            "http.request.method": x.scope["method"][:16],
            "http.route": route,
            "http.response.status_code": status,
            "gte.request_id": x.id,
            "gte.texts": x.texts,
            "gte.tokens": x.tokens,
            **{f"gte.{stage}_ms": seconds * 1000 for stage, seconds in x.times.items()},
            **(model | {"gen_ai.usage.input_tokens": x.tokens} if model else {}),
            **error,
        }
    )


def _model(x: Exchange) -> dict[str, Any]:
    """The model that was asked, and for what; empty where a request did not come so far. Its name is ours,
    because what clients call it is not bounded."""
    if x.model is None:
        return {}
    return {
        "gen_ai.operation.name": OPERATIONS[x.model.kind],
        "gen_ai.provider.name": "gte-runtime",
        "gen_ai.request.model": x.model.name,
        "gen_ai.response.model": x.model.name,
    }
