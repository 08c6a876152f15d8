"""Metrics add up, logs hold no texts, spans continue a trace."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from serving import Process, eventually, gated, in_threads

from gte_runtime import Embedder, Reranker
from gte_runtime.server.app import App
from gte_runtime.server.logs import JsonLines, PlainLines
from gte_runtime.server.models import EmbeddingModel, RerankerModel
from gte_runtime.server.options import Options

SECRET = "the text nobody may read"


@pytest.fixture(scope="module")
def watched(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory):
    process = Process(tmp_path_factory.mktemp("watched"), "--model", str(tiny_bundle))
    yield process
    process.stop()


def test_metrics_add_up(watched: Process, tiny_bundle: Path):
    """Requests by status, texts, tokens, runs and refusals are those that were sent."""
    texts = [f"{SECRET} {i} " * (i + 1) for i in range(10)]
    answers = in_threads(lambda i: watched.post("/v1/encode", {"input": texts[i]}), 10)
    for body in (b"{", b'{"input":[]}', b'{"input":""}'):
        watched.post("/v1/encode", body)
    watched.post("/v1/encode", {"input": "long " * 50, "max_length": 10})
    tokens = sum(answer.json()["usage"]["total_tokens"] for answer in answers) + 10
    page = watched.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert watched.metric("gte_texts_total") == 11
    assert watched.metric("gte_tokens_total") == watched.metric("gte_batch_tokens_sum") == tokens
    assert watched.metric("gte_batch_texts_sum") == 11
    assert watched.metric("gte_run_seconds_count") == watched.metric("gte_batch_tokens_count")
    assert watched.metric("gte_queue_seconds_count") == 11
    assert watched.metric("gte_truncated_texts_total") == 1
    assert (
        watched.metric("gte_running_runs")
        == watched.metric("gte_queue_tokens")
        == watched.metric("gte_in_flight_tokens")
        == 0
    )
    assert watched.metric("gte_ready") == 1
    assert 'gte_requests_total{route="/v1/encode",status="200"} 11.0' in page.text
    assert 'gte_requests_total{route="/v1/encode",status="422"} 2.0' in page.text
    assert 'gte_rejected_requests_total{reason="empty_input"} 2.0' in page.text
    assert 'gte_rejected_requests_total{reason="invalid_json"} 1.0' in page.text


def test_labels_are_ours(watched: Process):
    """A stranger cannot make new series: unknown paths share one name."""
    for index in range(20):
        watched.get(f"/strange/{index}")
    routes = {
        line.split('route="')[1].split('"')[0]
        for line in watched.get("/metrics").text.splitlines()
        if 'route="' in line
    }
    assert "other" in routes
    assert not any("strange" in route for route in routes)


def test_what_padding_would_have_cost(tiny_bundle: Path):
    """Two texts of other lengths in one run: a padded batch would have run the difference on top."""
    with gated(tiny_bundle) as (here, gate):
        gate.open.clear()
        answers = []

        def ask(text: str) -> None:
            answers.append(here.post("/v1/encode", {"input": text}))

        asking = [threading.Thread(target=ask, args=(text,)) for text in ("a", "a b c d", "a")]
        asking[0].start()
        eventually(lambda: gate.runs)
        for each in asking[1:]:
            each.start()
        eventually(lambda: here.server.scheduler.waiting == 2)
        gate.open.set()
        for each in asking:
            each.join()
        shared = next(run for run in gate.runs if len(run) == 2)
        assert here.metric("gte_padding_saved_tokens_total") == 2 * max(shared) - sum(shared) > 0


def test_the_log_has_a_line_per_request_and_no_text(watched: Process):
    """JSON lines with the route, the status, the times and the counts; the id is that of the answer."""
    answer = watched.post(
        "/v1/encode",
        {"input": [SECRET, SECRET]},
        headers={"x-request-id": "find-me", "authorization": "Bearer hush-hush"},
    )
    refused = watched.post("/v1/embeddings", {"input": [SECRET, 7]})
    eventually(
        lambda: (
            len(
                [
                    line
                    for line in watched.log_lines()
                    if line.get("request_id") == refused.headers["x-request-id"]
                ]
            )
            == 1
        )
    )
    line = next(line for line in watched.log_lines() if line.get("request_id") == "find-me")
    assert (line["event"], line["route"], line["status"], line["texts"]) == ("request", "/v1/encode", 200, 2)
    assert line["tokens"] == answer.json()["usage"]["total_tokens"]
    assert line["ms"] >= line["inference_ms"] >= 0
    bad = next(
        line for line in watched.log_lines() if line.get("request_id") == refused.headers["x-request-id"]
    )
    assert (bad["status"], bad["code"]) == (400, "invalid_type")
    for word in ("nobody may read", "hush-hush", "127.0.0.1:5"):
        assert word not in watched.log_text().split("\n", 1)[1]


def test_control_characters_do_not_make_lines():
    record = logging.LogRecord("gte_runtime.server", logging.INFO, "", 0, "request", (), None)
    fields = {"route": 'a\n{"event": "forged"}\x1b[31m'}
    record.__dict__["fields"] = fields
    for formatter in (JsonLines(), PlainLines()):
        line = formatter.format(record)
        assert "\n" not in line
        assert "\x1b" not in line
    assert json.loads(JsonLines().format(record))["route"] == fields["route"]


def test_spans_continue_the_client_s_trace(tiny_bundle: Path):
    """A request is a span of the trace that its `traceparent` names, with counts and times."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):  # it can be set once in a process
        trace.set_tracer_provider(TracerProvider())
    cast(Any, trace.get_tracer_provider()).add_span_processor(SimpleSpanProcessor(kept))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with gated(tiny_bundle) as (here, _):
        here.post("/v1/encode", {"input": SECRET}, headers={"traceparent": parent})
        here.post("/v1/encode", {"input": ""})
        eventually(lambda: len(kept.get_finished_spans()) == 2)
    good, bad = kept.get_finished_spans()
    told: dict[str, Any] = dict(good.attributes)
    assert good.name == "POST /v1/encode"
    assert f"{good.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert good.attributes["http.response.status_code"] == 200
    assert good.attributes["gte.texts"] == 1
    assert told["gte.tokens"] > 2
    assert told["gte.inference_ms"] > 0
    assert bad.attributes["error.type"] == "empty_input"
    assert SECRET not in str(good.attributes) + str(bad.attributes)


def test_genai_names(tiny_bundle: Path, reranker_bundle: Path):
    """Spans and metrics have the names of OpenTelemetry's conventions for generative AI, for what was
    run by a model and for nothing else; a name that a client made up is no label."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as published
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

    kept, reader = InMemorySpanExporter(), InMemoryMetricReader()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    cast(Any, trace.get_tracer_provider()).add_span_processor(SimpleSpanProcessor(kept))
    metrics.set_meter_provider(MeterProvider([reader]))

    async def ask(app: App) -> int:
        app.start()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=cast(Any, app)), base_url="http://test"
        ) as client:
            good = await client.post("/v1/embeddings", json={"input": "a b", "model": "made up"})
            for path, body in (
                ("/rerank", {"query": "a", "texts": ["b"]}),
                ("/v1/encode", {"input": "a", "max_length": 10**6}),
                ("/v1/encode", {"input": 7}),
            ):
                await client.post(path, json=body)
            await client.get("/health/ready")
        await app.close()
        tokens: int = good.json()["usage"]["total_tokens"]
        return tokens

    with (
        Embedder.open(tiny_bundle, threads=1) as embedder,
        Reranker.open(reranker_bundle, threads=1) as other,
    ):
        tokens = asyncio.run(
            ask(App([EmbeddingModel("mini", embedder), RerankerModel("best", other)], Options()))
        )
    spans: list[dict[str, Any]] = [dict(span.attributes or {}) for span in kept.get_finished_spans()]
    of_genai = [{k: v for k, v in span.items() if k.startswith("gen_ai.")} for span in spans]
    names = {
        "gen_ai.provider.name": "gte-runtime",
        "gen_ai.request.model": "mini",
        "gen_ai.response.model": "mini",
    }
    assert of_genai[0] == {
        **names,
        "gen_ai.operation.name": "embeddings",
        "gen_ai.usage.input_tokens": tokens,
    }
    assert (of_genai[1]["gen_ai.operation.name"], of_genai[1]["gen_ai.request.model"]) == ("rerank", "best")
    assert (of_genai[2]["gen_ai.request.model"], spans[2]["error.type"]) == ("mini", "invalid_value")
    assert of_genai[3:] == [{}, {}]
    assert {name for span in of_genai for name in span} <= {
        value for name, value in vars(published).items() if name.startswith("GEN_AI_")
    }
    assert published.GenAiOperationNameValues.EMBEDDINGS.value == "embeddings"

    data: Any = reader.get_metrics_data()
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert (metric.name, metric.unit) == (gen_ai_metrics.GEN_AI_SERVER_REQUEST_DURATION, "s")
    points = {
        (p.attributes["gen_ai.operation.name"], p.attributes.get("error.type")): p
        for p in metric.data.data_points
    }
    assert {key: point.count for key, point in points.items()} == {
        ("embeddings", None): 1,
        ("embeddings", "invalid_value"): 1,
        ("rerank", None): 1,
    }
    assert all(0 < point.sum < 60 and point.explicit_bounds[:2] == (0.01, 0.02) for point in points.values())


def test_without_the_extra_the_remedy_is_named():
    """`gte serve` where uvicorn is missing: the pip line, and no traceback."""
    code = """
import sys
sys.modules["uvicorn"] = None
from gte_runtime.cli import main
sys.argv = ["gte", "serve"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 5
    assert "pip install 'gte-runtime[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_loads_when_it_is_called():
    """The package, and `gte --help`, know nothing of it."""
    code = "import sys, gte_runtime, gte_runtime.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"uvicorn", "msgspec", "orjson", "prometheus_client", "gte_runtime.server"} & set(
        done.stdout.split()
    )


def test_a_server_here_needs_no_process(tiny_bundle: Path):
    """The application is plain ASGI: others may host it."""

    async def ask(app: App) -> int:
        app.start()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=cast(Any, app)), base_url="http://test"
        ) as client:
            answer = await client.post("/v1/encode", json={"input": "a"})
        await app.close()
        return answer.status_code

    with Embedder.open(tiny_bundle, threads=1) as embedder:
        assert asyncio.run(ask(App([EmbeddingModel("tiny", embedder)], Options()))) == 200
