"""What the server counts, for Prometheus. Labels are names of ours, never taken from a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Its registry is its own, so that several servers may run in one process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR):
            r.register(collector)
        self.requests = Counter("gte_requests", "Requests answered.", ["route", "status"], registry=r)
        self.rejected = Counter(
            "gte_rejected_requests", "Requests refused, by the error's code.", ["reason"], registry=r
        )
        self.disconnected = Counter(
            "gte_disconnected_requests", "Requests whose client left before the answer.", registry=r
        )
        self.connections_refused = Counter(
            "gte_refused_connections", "Connections closed by us, and why.", ["reason"], registry=r
        )
        self.texts = Counter("gte_texts", "Texts run.", ["model"], registry=r)
        self.tokens = Counter("gte_tokens", "Tokens run; their rate is the speed.", ["model"], registry=r)
        self.padding_saved = Counter(
            "gte_padding_saved_tokens", "Tokens a padded batch would have run on top.", ["model"], registry=r
        )
        self.truncated = Counter("gte_truncated_texts", "Texts that were cut.", registry=r)
        self.failed = Counter("gte_failed_texts", "Texts whose run failed.", ["model"], registry=r)
        self.request_seconds = self._seconds(
            "gte_request_seconds", "From a request's head to its answer.", "route"
        )
        self.tokenize_seconds = self._seconds("gte_tokenize_seconds", "Tokenizing a request's texts.")
        self.queue_seconds = self._seconds("gte_queue_seconds", "A request's wait for its first run.")
        self.run_seconds = self._seconds("gte_run_seconds", "One run of a model.", "model")
        self.batch_tokens = Histogram(
            "gte_batch_tokens", "Tokens of one run.", ["model"], buckets=TOKENS, registry=r
        )
        self.batch_texts = Histogram(
            "gte_batch_texts", "Texts of one run.", ["model"], buckets=TEXTS, registry=r
        )
        self.running = Gauge("gte_running_runs", "Runs going on.", registry=r)
        self.ready = Gauge("gte_ready", "1 when requests are taken.", registry=r)
        self.queue_tokens = Gauge("gte_queue_tokens", "Tokens that wait.", registry=r)
        self.queue_texts = Gauge("gte_queue_texts", "Texts that wait.", registry=r)
        self.in_flight_tokens = Gauge("gte_in_flight_tokens", "Tokens that wait or run.", registry=r)

    def _seconds(self, name: str, description: str, *labels: str) -> Histogram:
        return Histogram(name, description, labels, buckets=SECONDS, registry=self.registry)

    def watch(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Let a gauge read its value whenever the metrics are fetched."""
        gauge.set_function(read)

    def started(self) -> None:
        self.running.inc()

    def ended(self, model: str, lengths: Sequence[int], failed: int, seconds: float) -> None:
        """A run has ended: texts of so many tokens each, of which `failed` have no result."""
        tokens = sum(lengths)
        self.running.dec()
        self.run_seconds.labels(model).observe(seconds)
        self.batch_tokens.labels(model).observe(tokens)
        self.batch_texts.labels(model).observe(len(lengths))
        self.texts.labels(model).inc(len(lengths))
        self.tokens.labels(model).inc(tokens)
        self.padding_saved.labels(model).inc(max(lengths) * len(lengths) - tokens)
        if failed:
            self.failed.labels(model).inc(failed)

    def page(self) -> bytes:
        return generate_latest(self.registry)
