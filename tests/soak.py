"""A soak of the server: hours of other people's traffic in minutes, judged by what must not change.

    python tests/soak.py [--model gte-mini] [--seconds 1800] [--clients 4] [--seed 0] [--output FILE.json]
    python tests/soak.py --leak answers|threads|descriptors|vectors     # negative control: must fail

Clients of all dialects send texts of up to 8192 tokens, bodies that are no requests, requests with deadlines
that are too short, and leave at any moment; faults are put into the model's runs. Every vector, token weight
and score must be the library's, bit for bit. Between bursts of traffic, when nothing is in flight, memory,
threads and descriptors of the server are read: what is held then is held for good. `problems` judges them.

The process ends with 1 if anything was wrong, and prints what it saw as JSON.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import http.client
import json
import logging
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from reranking import GRAPHS, RERANKER
from serving import Process, request

from gte_runtime import Embedder, Reranker
from gte_runtime.building.build import build
from gte_runtime.errors import EngineError
from gte_runtime.inference.batch import Batch
from gte_runtime.inference.session import Outputs

LEAKS = ("answers", "threads", "descriptors", "vectors")
GROWTH = 0.02
"""Share by which the median of resident memory may grow from the second quarter of the samples to the last.
The first quarter is left out: caches, thread pools and the allocator's arenas are filled in it."""
QUIET = 5.0
"""Seconds that the server gets, after the clients of a burst have gone, to close their connections."""
EVERY = 17
"""Runs from one fault, or leak, to the next."""
KEPT = 2**20
"""Bytes of a kept answer: 128 vectors of 768 values in JSON."""
FEWEST = 12
"""Samples that are taken on however slow a machine."""
TEXT = """
the river meets the sea where ships from every harbour wait for the tide and morning 北京 是 中国 的 首都
पानी और आकाश ภาษาไทย bonjour à tous les amis длинная дорога через лес
مرحبا بالعالم 서울은 큰 도시 ½ naïve 😀
"""


# --- the server: the real one, with a session that fails now and then and, as a negative control, leaks ---


class Faults:
    """A real session that fails as devices do.

    Texts of `broken` tokens fail, and those of `not_finite` tokens give NaN; the texts beside them do not.
    Every so often a run of several texts fails once, which no client may see, and a run is slow.
    """

    def __init__(self, session: Any, broken: int, not_finite: int, leaks: Sequence[str]) -> None:
        self.session, self.provider, self.workers = session, session.provider, session.workers
        self.broken, self.not_finite, self.leaks = broken, not_finite, leaks
        self.runs = 0
        self.kept: list[object] = []

    def run(self, batch: Batch, share: Any = "any", owner: object = None, *, states: bool = False) -> Outputs:
        self.runs += 1
        now = self.runs % EVERY == 0
        if now and len(batch.lengths) > 1:
            raise EngineError("a fault of the soak")
        if now:
            time.sleep(0.02)
        if self.broken in batch.lengths:
            raise EngineError("a text that fails")
        outputs: Outputs = self.session.run(batch, share, owner, states=states)
        if len(outputs.cls):
            outputs.cls[np.flatnonzero(batch.lengths == self.not_finite)] = np.nan
        return self._leak(outputs, now)

    def _leak(self, outputs: Outputs, now: bool) -> Outputs:
        if "answers" in self.leaks:
            self.kept.append((outputs, b"x" * KEPT))
        if now and "threads" in self.leaks:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        if now and "descriptors" in self.leaks:
            self.kept.append(os.dup(0))
        if now and "vectors" in self.leaks and len(outputs.cls):
            outputs.cls[0, 0] *= np.float32(1 + 2**-20)
        return outputs

    def stop(self, owner: object) -> None:
        self.session.stop(owner)

    def close(self) -> None:
        self.session.close()


def launch(given: str) -> int:
    """`gte serve` of two models, with faults in the first one's session. Returns its exit code."""
    from gte_runtime.server.models import EmbeddingModel, RerankerModel
    from gte_runtime.server.options import Options
    from gte_runtime.server.serve import serve, take_address

    asked = json.loads(given)
    embedder = Embedder.open(asked["model"], variant=asked["variant"], threads=2)
    reranker = Reranker.open(asked["reranker"], variant="cpu-fp32", threads=2)
    embedder.engine.session = Faults(
        embedder.engine.session, asked["broken"], asked["not_finite"], asked["leaks"]
    )
    models = [
        EmbeddingModel(embedder.manifest.model, embedder),
        RerankerModel(reranker.manifest.model, reranker),
    ]
    listening = take_address("127.0.0.1", 0)
    return serve(
        models, Options(), host="127.0.0.1", listening=listening, log_format="json", log_level="warning"
    )


# --- what is sent, and what must come back ---


@dataclass(frozen=True, slots=True)
class Known:
    """Texts and the library's answers for them, each text run alone."""

    texts: list[str]
    dense: list[Any]
    sparse: list[Any]
    broken: str
    not_finite: str
    scores: dict[tuple[int, int], float]
    """Of pairs of texts, by their positions."""


def draw(tokenizer: Any, tokens: int, choose: random.Random) -> str:
    """A text of about so many tokens."""
    words = choose.choices(TEXT.split(), k=max(1, tokens))
    text = " ".join(words)
    count = len(tokenizer.encode([text], max_length=2**20)[0].ids)
    return " ".join(words[: max(1, len(words) * tokens // count)])


def prepare(
    model: str | Path, variant: str | None, reranker: Path, pool: int, longest: int, choose: random.Random
) -> tuple[Known, dict[str, int]]:
    """The texts, and the lengths of the two that fail, which no other text has."""
    with (
        Embedder.open(model, variant=variant, threads=2) as gte,
        Reranker.open(reranker, variant="cpu-fp32", threads=2) as judge,
    ):
        lengths = [
            4 + int(np.exp(choose.uniform(0, np.log(min(longest, gte.max_length) - 4)))) for _ in range(pool)
        ]
        lengths[0] = min(longest, gte.max_length)
        drawn = [draw(gte.tokenizer, length, choose) for length in lengths]
        bad = [draw(gte.tokenizer, 40, choose), draw(gte.tokenizer, 60, choose)]
        broken, not_finite = (len(t.ids) for t in gte.tokenizer.encode(bad, max_length=2**20))
        taken = {broken, not_finite, *(len(check.ids) for check in gte.manifest.self_checks)}
        assert len(taken) == 2 + len({len(check.ids) for check in gte.manifest.self_checks})
        # Any: dense and sparse are never None where both are asked for.
        out: list[Any] = [gte.encode(text, sparse=True) for text in drawn]
        kept = [i for i, one in enumerate(out) if one.tokens[0] not in (broken, not_finite)]
        texts = [drawn[i] for i in kept]
        short = [i for i, text in enumerate(texts) if len(text) < 2000][:6]
        pairs = [(a, b) for a in short for b in short]
        scores = judge.score([(texts[a], texts[b]) for a, b in pairs], sigmoid=True)
        known = Known(
            texts,
            [out[i].dense[0] for i in kept],
            [(out[i].sparse[0].indices, out[i].sparse[0].values) for i in kept],
            bad[0],
            bad[1],
            dict(zip(pairs, scores.tolist(), strict=True)),
        )
    return known, {"broken": broken, "not_finite": not_finite}


def floats(values: Any) -> Any:
    if isinstance(values, str):
        return np.frombuffer(base64.b64decode(values), "<f4")
    return np.array(values, np.float32)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one family of clients asks for dense vectors, and where it finds them."""

    path: str
    ask: Callable[[list[str]], dict[str, Any]]
    dense: Callable[[Any], list[Any]]


def _data(answer: Any) -> list[Any]:
    return [item["embedding"] for item in answer["data"]]


DIALECTS = (
    Dialect("/v1/embeddings", lambda t: {"input": t, "model": "x", "encoding_format": "base64"}, _data),
    Dialect("/v1/embeddings", lambda t: {"input": t, "model": "x"}, _data),
    Dialect("/embeddings", lambda t: {"input": t, "model": "default/not-specified"}, _data),
    Dialect("/embed", lambda t: {"inputs": t, "normalize": True}, list),
    Dialect("/", lambda t: {"inputs": t}, list),
    Dialect("/v2/embed", lambda t: {"texts": t, "model": "x"}, lambda a: list(a["embeddings"]["float"])),
)
NO_REQUESTS = (
    b"{",
    b"",
    b"[]",
    b'{"input":[]}',
    b'{"input":""}',
    b'{"input":[1,2]}',
    b'{"input":"a","dimensions":-1}',
    b'{"input":"\\ud800"}',
    b'{"input":"\xff"}',
    b"[" * 50_000,
    b'{"input":"a","encoding_format":"evil"}',
    b'{"input":["a",7]}',
    b'{"input":NaN}',
)
NO_HTTP = (
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    b"POST /embed HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
)


class Client:
    """One client with a kept connection. Counts what it did, and keeps what was wrong."""

    def __init__(self, port: int, known: Known, choose: random.Random, seen: Seen) -> None:
        self.port, self.known, self.choose, self.seen = port, known, choose, seen
        self.line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def work(self, until: float) -> None:
        kinds = [
            (self.vectors, 55),
            (self.sparse, 10),
            (self.scores, 8),
            (self.one_fails, 8),
            (self.no_request, 10),
            (self.leave, 6),
            (self.deadline, 3),
        ]
        try:
            while time.monotonic() < until:
                (kind,) = self.choose.choices(
                    [kind for kind, _ in kinds], weights=[weight for _, weight in kinds]
                )
                self.seen.count(kind.__name__)
                try:
                    kind()
                except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
                    self.seen.wrong(f"{kind.__name__}: {type(error).__name__}: {error}"[:300])
                    self.line.close()
        finally:
            self.line.close()

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        kept = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        self.line.request("POST", path, body, kept)
        answer = self.line.getresponse()
        return answer.status, json.loads(answer.read() or b"null")

    def _some(self, most: int = 4) -> list[int]:
        """Positions of texts, of which at most one is long."""
        found = self.choose.choices(range(len(self.known.texts)), k=self.choose.randint(1, most))
        first = found[0]
        return [first, *(i for i in found[1:] if len(self.known.texts[i]) < 2000)]

    def _expect(self, what: str, status: int, wanted: set[int], answer: Any) -> bool:
        if status not in wanted:
            self.seen.wrong(f"{what}: status {status}, {str(answer)[:200]}")
        return status == 200 and status in wanted

    def _same(self, what: str, rows: Sequence[int], found: Sequence[Any]) -> None:
        same = len(rows) == len(found) and all(
            np.array_equal(self.known.dense[i], floats(row)) for i, row in zip(rows, found, strict=True)
        )
        self.seen.compared += len(rows)
        if not same:
            self.seen.other(f"{what}: other vectors for the texts {rows}")

    def vectors(self) -> None:
        dialect, rows = self.choose.choice(DIALECTS), self._some()
        body = json.dumps(dialect.ask([self.known.texts[i] for i in rows])).encode()
        headers: dict[str, str] = {}
        if self.choose.random() < 0.2:
            body, headers = gzip.compress(body, 1), {"content_encoding": "gzip"}
        status, answer = self.post(dialect.path, body, **headers)
        if self._expect(dialect.path, status, {200}, answer):
            self._same(dialect.path, rows, dialect.dense(answer))

    def sparse(self) -> None:
        rows = self._some()
        body = {"input": [self.known.texts[i] for i in rows], "sparse": True}
        status, answer = self.post("/v1/encode", json.dumps(body).encode())
        if not self._expect("/v1/encode", status, {200}, answer):
            return
        self._same("/v1/encode", rows, _data(answer))
        for i, item in zip(rows, answer["data"], strict=True):
            indices, values = self.known.sparse[i]
            found = item["sparse"]
            if found["indices"] != indices.tolist() or not np.array_equal(floats(found["values"]), values):
                self.seen.other(f"other token weights for the text {i}")

    def scores(self) -> None:
        query, document = self.choose.choice(list(self.known.scores))
        body = {"query": self.known.texts[query], "texts": [self.known.texts[document]]}
        status, answer = self.post("/rerank", json.dumps(body).encode())
        if self._expect("/rerank", status, {200}, answer):
            self.seen.compared += 1
            if np.float32(answer[0]["score"]) != np.float32(self.known.scores[query, document]):
                self.seen.other(f"another score for the pair {query}, {document}")

    def one_fails(self) -> None:
        """A text whose run fails, between others: those get their vectors."""
        rows = self._some(3)
        bad = self.choose.choice([self.known.broken, self.known.not_finite])
        at = self.choose.randint(0, len(rows))
        texts = [self.known.texts[i] for i in rows]
        body = {"input": [*texts[:at], bad, *texts[at:]], "on_error": "item"}
        status, answer = self.post("/v1/encode", json.dumps(body).encode())
        if self._expect("on_error", status, {200}, answer):
            failed = answer["data"].pop(at)
            if "error" not in failed:
                self.seen.wrong("a text whose run failed has a vector")
            self._same("beside a text that failed", rows, _data(answer))

    def no_request(self) -> None:
        if self.choose.random() < 0.3:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as line:
                line.sendall(self.choose.choice(NO_HTTP))
                with contextlib.suppress(ConnectionResetError):
                    received = line.recv(65536)
                    if received and not received.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")):
                        self.seen.wrong(f"no HTTP: {received[:100]!r}")
            return
        status, answer = self.post("/v1/encode", self.choose.choice(NO_REQUESTS))
        self._expect("no request", status, {400, 422}, answer)

    def leave(self) -> None:
        """Go away within the request or before the answer."""
        body = json.dumps({"input": [self.known.texts[i] for i in self._some()]}).encode()
        sent = request("/v1/encode", body)
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as line:
            line.sendall(sent[: self.choose.choice([20, len(sent) // 2, len(sent), len(sent)])])
            time.sleep(self.choose.random() * 0.05)

    def deadline(self) -> None:
        body = json.dumps({"input": [self.known.texts[i] for i in self._some()]}).encode()
        status, answer = self.post("/v1/encode", body, x_request_timeout_ms="1")
        self._expect("deadline", status, {200, 504}, answer)


# --- what was seen, and whether it is good ---


@dataclass(slots=True)
class Seen:
    """Shared by the clients' threads."""

    kinds: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    """Vectors and scores that were compared with the library's."""
    differing: int = 0
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str) -> None:
        with self.lock:
            self.kinds[kind] += 1

    def wrong(self, what: str) -> None:
        with self.lock:
            self.failures.append(what)

    def other(self, what: str) -> None:
        with self.lock:
            self.differing += 1
            self.failures.append(what)


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's process when nothing is in flight."""

    resident: int
    """Bytes."""
    threads: int
    descriptors: int


def quarters(values: Sequence[float]) -> list[list[float]]:
    return [list(part) for part in np.array_split(np.asarray(values, float), 4)]


def problems(samples: Sequence[Sample], growth: float = GROWTH) -> list[str]:
    """What the samples say against the server: at least 8 of them, in order of time.

    Medians of quarters, because single samples differ by what the allocator has given back so far; for
    threads and descriptors the most of a quarter, because one too many is one too many.
    """
    if len(samples) < 8:
        return [f"{len(samples)} samples say nothing; let it run longer"]
    found = []
    memory = [statistics.median(part) for part in quarters([s.resident for s in samples])]
    if memory[3] > memory[1] * (1 + growth):
        found.append(f"memory grows: medians by quarter {', '.join(f'{m / 2**20:.1f}' for m in memory)} MiB")
    for name in ("threads", "descriptors"):
        most = [max(part) for part in quarters([getattr(s, name) for s in samples])]
        if most[3] > most[1]:
            found.append(f"{name} grow: most by quarter {', '.join(f'{m:.0f}' for m in most)}")
    return found


def sample(process: psutil.Process, metric: Callable[[str], float]) -> Sample:
    """Wait until nothing is in flight and connections are closed, and read the process."""
    end = time.monotonic() + QUIET
    while metric("gte_in_flight_tokens") or metric("gte_running_runs"):
        if time.monotonic() > end + 60:
            raise SystemExit("requests are still in flight a minute after their clients left")
        time.sleep(0.05)
    descriptors = process.num_fds()
    calm = time.monotonic()
    while time.monotonic() < min(end, calm + 0.3):
        time.sleep(0.05)
        if (now := process.num_fds()) < descriptors:
            descriptors, calm = now, time.monotonic()
    return Sample(process.memory_info().rss, process.num_threads(), descriptors)


def soak(
    model: str | Path,
    variant: str | None,
    reranker: Path,
    folder: Path,
    *,
    seconds: float,
    clients: int = 4,
    pool: int = 64,
    longest: int = 8192,
    seed: int = 0,
    leaks: Sequence[str] = (),
    growth: float = GROWTH,
) -> dict[str, Any]:
    """Run it, and report what was seen. `problems` in the report is empty if all is well."""
    choose = random.Random(seed)
    known, lengths = prepare(model, variant, reranker, pool, longest, choose)
    asked = {
        "model": str(model),
        "variant": variant,
        "reranker": str(reranker),
        "leaks": list(leaks),
        **lengths,
    }
    here = Path(__file__).resolve()
    command = [sys.executable, str(here), "--launch", json.dumps(asked)]
    seen = Seen()
    samples: list[Sample] = []
    server = Process(folder, command=command)
    try:
        watched = psutil.Process(server.process.pid)
        burst = min(10.0, max(0.3, seconds / 60))
        begun = time.monotonic()
        end = begun + seconds
        round_ = 0
        while (time.monotonic() < end or len(samples) < FEWEST) and server.process.poll() is None:
            until = time.monotonic() + burst
            crew = [
                Client(server.port, known, random.Random(f"{seed} {round_} {number}"), seen)
                for number in range(clients)
            ]
            with ThreadPoolExecutor(clients) as threads:
                for future in [threads.submit(each.work, until) for each in crew]:
                    future.result()
            samples.append(sample(watched, server.metric))
            round_ += 1
        took = time.monotonic() - begun
        alive = server.process.poll() is None
        code = server.stop() if alive else server.process.returncode
    finally:
        server.close()
    found = problems(samples, growth)
    if seen.differing:
        found.append(f"{seen.differing} answers have other vectors, token weights or scores")
    if len(seen.failures) > seen.differing:
        found.append(f"{len(seen.failures) - seen.differing} requests went wrong")
    if not alive or code:
        found.append(f"the server ended {'at SIGTERM' if alive else 'by itself'} with exit code {code}")
    if traces := server.log_text().count("Traceback"):
        found.append(f"{traces} tracebacks in the log")
    return {
        "seconds": round(took),
        "requests": dict(seen.kinds),
        "compared": seen.compared,
        "differing": seen.differing,
        "failures": seen.failures[:10],
        "samples": len(samples),
        "resident_mib": [
            round(statistics.median(q) / 2**20, 1) for q in quarters([s.resident for s in samples])
        ],
        "threads": [max(q) for q in quarters([s.threads for s in samples])],
        "descriptors": [max(q) for q in quarters([s.descriptors for s in samples])],
        "longest_tokens": longest,
        "problems": found,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gte-mini", help="a bundle directory or a shipped model")
    parser.add_argument("--variant", default="cpu-fp32")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--longest", type=int, default=8192, help="tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leak", action="append", default=[], choices=LEAKS)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--launch", help=argparse.SUPPRESS)
    # `serving.Process` adds the arguments of `gte serve`.
    given, _ = parser.parse_known_args()
    if given.launch:
        return launch(given.launch)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        reranker = Path(folder) / "reranker"
        build(RERANKER, reranker, graphs=GRAPHS, variants=("cpu-fp32",))
        report = soak(
            given.model,
            given.variant,
            reranker,
            Path(folder),
            seconds=given.seconds,
            clients=given.clients,
            longest=given.longest,
            seed=given.seed,
            leaks=given.leak,
        )
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
