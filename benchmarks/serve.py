"""Measures `gte serve` under load, from a second process over loopback.

    python benchmarks/serve.py BUNDLE [--variant cpu-int8] [--clients 32] [--output FILE.json]
        [--parts throughput,latency,rejections,serialisation]
    python benchmarks/serve.py BUNDLE --url http://127.0.0.1:7998 --parts throughput

The second form measures another server that has /embeddings. The parts:

throughput     the same texts in bulk through Embedder.encode and by 32 clients, in turns, each in its process
latency        one client, one query of 16 tokens, compared with Embedder.encode of the same text
rejections     room for N tokens, N + k sent at once: how many 429s
serialisation  the body of an answer of 64 x 768
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from gte_runtime.bench import machine

TEXTS = Path(__file__).parent / "texts" / "udhr.txt"
GTE = [sys.executable, "-c", "from gte_runtime.cli import main; main()"]


class Texts:
    """Texts of wanted lengths in tokens, cut out of the declaration in 22 languages."""

    def __init__(self, bundle: Path, seed: int) -> None:
        from gte_runtime.bundle.directory import Bundle
        from gte_runtime.tokenization import Tokenizer

        opened = Bundle.open(bundle)
        self._tokenizer = Tokenizer(opened.read("tokenizer.json"), opened.manifest.tokenizer)
        self._paragraphs = [line for line in TEXTS.read_text(encoding="utf-8").splitlines() if len(line) > 40]
        self.choose = random.Random(seed)

    def of(self, tokens: int) -> str:
        text = ""
        while self.count(text) < tokens:
            text = f"{text} {self.choose.choice(self._paragraphs)}".strip()
        low, high = 0, len(text)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.count(text[:middle]) < tokens else (low, middle)
        return text[:low]

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode([text], max_length=2**20)[0].ids)

    def mixed(self, count: int) -> list[str]:
        """80 % queries of 8-24 tokens, 20 % documents of 100-500."""
        lengths = [
            self.choose.randint(8, 24) if self.choose.random() < 0.8 else self.choose.randint(100, 500)
            for _ in range(count)
        ]
        return [self.of(length) for length in lengths]


class Line:
    """One kept connection. A client of few lines: what a library's client costs would be measured too."""

    def __init__(self, url: str) -> None:
        parts = urlparse(url)
        self._host, self._port = parts.hostname, parts.port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, path: str, body: bytes, *headers: str) -> None:
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=2**26)
        head = [
            f"POST {path} HTTP/1.1",
            "host: bench",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *headers,
            "",
            "",
        ]
        self._writer.write("\r\n".join(head).encode() + body)
        await self._writer.drain()

    async def receive(self) -> tuple[int, dict[str, str], bytes]:
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self._reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(head[0].split()[1]), headers, body

    async def post(self, path: str, body: bytes, *headers: str) -> tuple[int, dict[str, str], bytes]:
        await self.send(path, body, *headers)
        return await self.receive()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Served:
    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log


@contextmanager
def served(bundle: Path, variant: str, *options: str) -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            command = [*GTE, "serve", "--port", "0", "--model", str(bundle), "--variant", variant, *options]
            process = subprocess.Popen(command, stderr=out)
        try:
            while not (found := re.search(r"at (http://\S+)$", log.read_text(), re.MULTILINE)):
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.05)
            yield Served(process, found[1], log)
        finally:
            process.terminate()
            code = process.wait(60)
            if code:
                print(f"the server ended with {code}\n{log.read_text()[-2000:]}", file=sys.stderr)


BULK = """
import json, sys, time
from gte_runtime import Embedder
texts = json.load(sys.stdin)
with Embedder.open(sys.argv[1], variant=sys.argv[2]) as gte:
    gte.encode(texts[:40])
    start = time.perf_counter()
    out = gte.encode(texts)
    print(json.dumps({"seconds": time.perf_counter() - start, "tokens": int(out.tokens.sum())}))
"""

ONE = """
import json, sys, time
from gte_runtime import Embedder
text = json.load(sys.stdin)
with Embedder.open(sys.argv[1], variant=sys.argv[2]) as gte:
    times = []
    for _ in range(int(sys.argv[3])):
        start = time.perf_counter()
        gte.encode(text)
        times.append(time.perf_counter() - start)
        time.sleep(0.002)
    print(json.dumps(times))
"""


def in_process(code: str, given: Any, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


async def closed_loop(
    url: str, path: str, bodies: Sequence[bytes], clients: int
) -> tuple[float, list[float]]:
    """Seconds for all bodies, and those of each request. Every client sends one request after the other."""
    left, times = iter(bodies), []

    async def client() -> None:
        line = Line(url)
        for body in left:
            start = time.perf_counter()
            status, _, answer = await line.post(path, body)
            times.append(time.perf_counter() - start)
            if status != 200:
                raise SystemExit(f"{status}: {answer[:300]!r}")
        line.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - start, times


def bodies_of(texts: Sequence[str]) -> list[bytes]:
    return [json.dumps({"input": text, "model": "m", "encoding_format": "base64"}).encode() for text in texts]


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    texts = Texts(args.bundle, 1).mixed(args.texts)
    bodies = bodies_of(texts)
    bulk: list[float] = []
    loads: list[float] = []
    times: list[float] = []
    tokens = 0

    def turns(url: str, path: str) -> None:
        nonlocal tokens
        asyncio.run(closed_loop(url, path, bodies[:64], args.clients))
        for _ in range(args.repeats):
            one = in_process(BULK, texts, str(args.bundle), args.variant)
            tokens = one["tokens"]
            bulk.append(one["seconds"])
            seconds, each = asyncio.run(closed_loop(url, path, bodies, args.clients))
            loads.append(seconds)
            times.extend(each)
            print(f"bulk {one['seconds']:.2f} s, served {seconds:.2f} s", file=sys.stderr, flush=True)

    if args.url:
        turns(args.url, "/embeddings")
    else:
        with served(args.bundle, args.variant, *args.option) as server:
            turns(server.url, "/v1/embeddings")
    serve, direct = statistics.median(loads), statistics.median(bulk)
    return {
        "texts": len(texts),
        "tokens": tokens,
        "clients": args.clients,
        "bulk_seconds": bulk,
        "served_seconds": loads,
        "bulk_tokens_per_second": tokens / direct,
        "served_tokens_per_second": tokens / serve,
        "share_of_bulk": direct / serve,
        "request_ms": quantiles(times),
    }


def latency(args: argparse.Namespace) -> dict[str, Any]:
    text = Texts(args.bundle, 2).of(16)
    body = bodies_of([text])[0]
    count = args.requests

    async def one_client(url: str) -> tuple[list[float], list[float]]:
        line, times, inside_server = Line(url), [], []
        for index in range(count + 20):
            start = time.perf_counter()
            _, headers, _ = await line.post("/v1/embeddings", body)
            if index >= 20:
                times.append(time.perf_counter() - start)
                inside_server.append(float(headers["x-inference-time"]) / 1000)
            await asyncio.sleep(0.002)
        return times, inside_server

    direct: list[float] = []
    asked: list[float] = []
    inside: list[float] = []
    with served(args.bundle, args.variant, *args.option) as server:
        for _ in range(args.repeats):
            direct += in_process(ONE, text, str(args.bundle), args.variant, str(count + 20))[20:]
            times, inside_server = asyncio.run(one_client(server.url))
            asked += times
            inside += inside_server
    return {
        "tokens": 16,
        "client_ms": quantiles(asked),
        "run_in_server_ms": quantiles(inside),
        "encode_ms": quantiles(direct),
        "over_encode_p50_ms": 1000 * (statistics.median(asked) - statistics.median(direct)),
        "over_run_p50_ms": 1000 * (statistics.median(asked) - statistics.median(inside)),
    }


def rejections(args: argparse.Namespace) -> dict[str, Any]:
    text = Texts(args.bundle, 3).of(600)
    tokens = Texts(args.bundle, 3).count(text)
    fit, over = 16, 5
    body = bodies_of([text])[0]

    async def burst(url: str) -> list[int]:
        lines = [Line(url) for _ in range(fit + over)]
        await asyncio.gather(*(line.post("/v1/embeddings", bodies_of(["warm"])[0]) for line in lines))
        answers = await asyncio.gather(*(line.post("/v1/embeddings", body) for line in lines))
        return [status for status, _, _ in answers]

    counts = []
    with served(args.bundle, args.variant, "--max-queue-tokens", str(fit * tokens), *args.option) as server:
        for _ in range(args.repeats):
            counts.append(asyncio.run(burst(server.url)).count(429))
    return {"room_tokens": fit * tokens, "sent": fit + over, "expected_429": over, "found_429": counts}


def serialisation(args: argparse.Namespace) -> dict[str, Any]:
    from gte_runtime.inference.engine import State
    from gte_runtime.server.dialects.native import vectors
    from gte_runtime.server.encoding import Encoded
    from gte_runtime.server.exchange import json_answer

    class Model:
        dim = 768

    rows = np.random.default_rng(0).standard_normal((64, 768)).astype(np.float32)
    states = [State(row, np.zeros(0, np.float32)) for row in rows]
    found: dict[str, Any] = {}
    for form in ("float", "base64"):
        times = []
        for _ in range(300):
            start = time.perf_counter()
            out = Encoded(Model(), [], states, list(range(64)))
            data = [
                {"object": "embedding", "index": i, "embedding": row}
                for i, row in enumerate(vectors(out, 768, form))
            ]
            body = json_answer({"object": "list", "data": data}).body
            times.append(time.perf_counter() - start)
        found[form] = {"bytes": len(body), "ms": quantiles(times)}
    return found


def quantiles(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        name: 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * q))]
        for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }


PARTS = {
    "throughput": throughput,
    "latency": latency,
    "rejections": rejections,
    "serialisation": serialisation,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="cpu-int8")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--url", help="Measure this server's /embeddings instead of our own.")
    parser.add_argument(
        "--option", action="append", default=[], help="Passed on to gte serve; may be given several times."
    )
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = {
        "bench": "serve",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "variant": args.variant,
        "hardware": machine.hardware(),
        "versions": machine.versions(),
    }
    for part in args.parts.split(","):
        report[part] = PARTS[part](args)
        print(json.dumps({part: report[part]}, indent=1), flush=True)
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
