"""Compares `gte serve` with infinity's torch engine: the same full-size weights, texts and load, in turns.

    python benchmarks/beside_infinity.py BUNDLE CHECKPOINT --infinity VENV/bin/infinity_emb
        [--turns 3] [--texts 60] [--clients 32] [--batch-size 32 --batch-size 4] [--dtype float32]
        [--output FILE.json]

infinity_emb 0.0.78 pins an older sentence-transformers, which does not know this model. It runs with:

    pip install torch==2.13.0
    pip install --no-deps "infinity_emb[server]==0.0.78" transformers==5.23.0 sentence-transformers==5.7.0
    pip install fastapi uvicorn prometheus-fastapi-instrumentator pydantic orjson typer rich posthog numpy \\
        scipy scikit-learn safetensors tokenizers regex pyyaml packaging tqdm requests filelock httpx \\
        httptools huggingface_hub aiohttp diskcache einops

All servers stay up; in each turn each of them answers all texts once. Before the first turn one client warms
up each server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import serve
from peers.prepare_torch import write_native

from gte_runtime.bench import machine

PEER = {
    "infinity_emb": "0.0.78",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "sentence-transformers": "5.7.0",
}
READY = 600
"""Seconds to wait for the first answer of a server."""


def main() -> None:
    args = parse()
    texts = serve.Texts(args.bundle, 7)
    mixed = texts.mixed(args.texts)
    tokens = sum(map(texts.count, mixed))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        native = Path(folder) / "native"
        write_native(args.checkpoint, native)
        urls = {
            f"gte {args.variant}": stack.enter_context(serve.served(args.bundle, args.variant)).url + "/v1"
        }
        for dtype in args.dtype:
            for size in args.batch_size:
                urls[f"infinity {dtype}, --batch-size {size}"] = stack.enter_context(
                    infinity(args.infinity, native, dtype, size)
                )
        vectors = {name: vector(url, mixed[0]) for name, url in urls.items()}
        turns = list(run_turns(urls, mixed, args))
    first = next(iter(urls))
    rates = {name: [tokens / turn[name] for turn in turns] for name in urls}
    report = {
        "bench": "beside_infinity",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": machine.hardware(),
        "versions": machine.versions() | PEER,
        "texts": len(mixed),
        "tokens": tokens,
        "clients": args.clients,
        "load_average": os.getloadavg(),
        "cosine_to_gte": {name: float(np.dot(vectors[first], v)) for name, v in vectors.items()},
        "tokens_per_second": rates,
        "times_gte": {
            name: [a / b for a, b in zip(rates[first], each, strict=True)] for name, each in rates.items()
        },
    }
    print(json.dumps(report, indent=1))
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--infinity", type=Path, required=True, help="Its command.")
    parser.add_argument("--variant", default="cpu-int8")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--batch-size", type=int, action="append")
    parser.add_argument("--dtype", action="append")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    args.batch_size = args.batch_size or [32, 4]
    args.dtype = args.dtype or ["float32"]
    return args


@contextmanager
def infinity(command: Path, native: Path, dtype: str, size: int) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model-id": native, "engine": "torch", "device": "cpu", "dtype": dtype, "batch-size": size,
        "served-model-name": "m",  # what serve.py's requests name
        "host": "127.0.0.1", "port": port,
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in options.items()]
    with tempfile.TemporaryFile() as log:
        quiet = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        }
        process = subprocess.Popen(
            [command, "v2", "--model-warmup=false", "--bettertransformer=false", *flags],
            stdout=log,
            stderr=log,
            env=quiet,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}"
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace")[-3000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + READY
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit("infinity ended")
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    raise SystemExit("infinity does not answer")


def vector(url: str, text: str) -> np.ndarray:
    async def ask() -> bytes:
        status, _, answer = await serve.Line(url).post(path_of(url), serve.bodies_of([text])[0])
        assert status == 200, answer[:300]
        return answer

    import base64

    found = json.loads(asyncio.run(ask()))["data"][0]["embedding"]
    return np.frombuffer(base64.b64decode(found), "<f4")


def path_of(url: str) -> str:
    return "/v1/embeddings" if url.endswith("/v1") else "/embeddings"


def run_turns(urls: dict[str, str], texts: list[str], args: argparse.Namespace) -> Iterator[dict[str, float]]:
    bodies = serve.bodies_of(texts)
    for turn in range(args.turns):
        order = list(urls) if turn % 2 == 0 else list(urls)[::-1]
        seconds = {}
        for name in order:
            if not turn:
                asyncio.run(serve.closed_loop(urls[name], path_of(urls[name]), bodies[:2], 1))
            seconds[name], times = asyncio.run(
                serve.closed_loop(urls[name], path_of(urls[name]), bodies, args.clients)
            )
            print(
                f"turn {turn}: {name}: {seconds[name]:.1f} s, p50 {statistics.median(times):.2f} s",
                file=sys.stderr,
                flush=True,
            )
        yield seconds


if __name__ == "__main__":
    main()
