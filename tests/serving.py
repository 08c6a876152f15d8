"""Servers for tests.

`gte serve` in a process of its own, or the same application in a thread, with a session that waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from gte_runtime import Embedder
from gte_runtime.errors import Cancelled, EngineError
from gte_runtime.inference.batch import Batch
from gte_runtime.inference.session import Outputs
from gte_runtime.server.app import App
from gte_runtime.server.models import EmbeddingModel, ServedModel
from gte_runtime.server.options import Options
from gte_runtime.server.serve import make_server

GTE = [sys.executable, "-c", "from gte_runtime.cli import main; main()"]


class Client:
    """Sends requests to a server on loopback, through httpx or as raw bytes."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False, verify=False) as client:
            if isinstance(body, bytes):
                options["headers"] = {"content-type": "application/json", **options.get("headers", {})}
                return client.post(path, content=body, **options)
            return client.post(path, json=body, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False, verify=False) as client:
            return client.get(path, **options)

    def connect(self, timeout: float = 10) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, data: bytes, timeout: float = 10) -> bytes:
        """All bytes until the server closes the connection or sends nothing for `timeout` seconds."""
        with self.connect(timeout) as line:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                line.sendall(data)
            return read_all(line)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}(\{{| )", line))


def read_all(line: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while piece := line.recv(65536):
            received += piece
    return received


def request(
    path: str, body: bytes, *headers: str, method: str = "POST", kind: str = "application/json"
) -> bytes:
    """A request in bytes."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: localhost",
        f"content-type: {kind}",
        f"content-length: {len(body)}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def answers(received: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """(status, headers, body) of the answers in a stream of bytes."""
    found = []
    while received.startswith(b"HTTP/1.1 "):
        head, _, rest = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        size = int(headers.get("content-length", 0))
        found.append((int(first.split()[1]), headers, rest[:size]))
        received = rest[size:]
    return found


class Process(Client):
    """`gte serve` as a user starts it."""

    def __init__(
        self, folder: Path, *arguments: str, env: dict[str, str] | None = None, command: Sequence[str] = GTE
    ) -> None:
        self.log = folder / f"serve-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "serve", "--port", "0", *arguments], stderr=log, stdout=subprocess.PIPE, env=env
            )
        try:
            self.port = self._port()
        except BaseException:
            self.close()
            raise

    def _port(self) -> int:
        for _ in range(2400):  # two minutes: a machine may be busy
            if found := re.search(r"at http://\S+:(\d+)$", self.log_text(), re.MULTILINE):
                return int(found[1])
            if self.process.poll() is not None:
                raise RuntimeError(f"exit {self.process.returncode}: {self.log_text()[-2000:]}")
            time.sleep(0.05)
        raise RuntimeError("the server did not start")

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        try:
            return self.process.wait(30)
        finally:
            self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Gate:
    """A real session whose runs wait while `open` is cleared, and fail on texts of `poison` tokens."""

    def __init__(self, session: Any) -> None:
        self.session, self.provider, self.workers = session, session.provider, 1
        self.open = threading.Event()
        self.open.set()
        self.runs: list[list[int]] = []
        """Lengths of the texts of each run."""
        self.poison: int | None = None
        """A run fails if it has a text of so many tokens."""
        self.stopped = threading.Event()
        self.deaf = False
        """Ignore `stop`."""

    def run(self, batch: Batch, share: str = "any", owner: object = None, *, states: bool = False) -> Outputs:
        self.runs.append(batch.lengths.tolist())
        while not self.open.wait(0.01):
            if self.stopped.is_set() and not self.deaf:
                raise Cancelled("stopped")
        if self.poison in batch.lengths:
            raise EngineError("it broke in /secret/place/graph.onnx")
        outputs: Outputs = self.session.run(batch, "any", owner, states=states)
        return outputs

    def stop(self, owner: object) -> None:
        self.stopped.set()

    def close(self) -> None:
        self.session.close()


class Here(Client):
    """The application behind a real socket, in a thread of this process."""

    def __init__(self, embedder: Embedder, options: Options) -> None:
        self.exit_codes: list[int] = []
        self.app = App([EmbeddingModel(embedder.manifest.model, embedder)], options)
        self.server = self.app.server
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="server")
        self._thread.start()
        assert self._started.wait(10)

    async def _serve(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._server = make_server(self.app)
        self.app.start(self.exit_codes.append)
        self._loop.call_later(0.1, self._started.set)
        await self._server.serve(sockets=[listening])
        await self.app.close()

    def drain(self) -> None:
        """What SIGTERM does."""

        def stop() -> None:
            self.server.health.draining = True
            self._server.should_exit = True

        self._loop.call_soon_threadsafe(stop)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # a test has stopped it, and its event loop is closed
            self.drain()
        self._thread.join(30)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def gated(bundle: Path, **options: Any) -> Iterator[tuple[Here, Gate]]:
    """A server whose runs wait while the test clears the gate's `open`."""
    with Embedder.open(bundle, threads=1) as embedder:
        gate = Gate(embedder.engine.session)
        embedder.engine.session = gate
        here = Here(embedder, Options(**{"patience": 0, **options}))
        try:
            yield here, gate
        finally:
            gate.open.set()
            gate.deaf = False
            here.close()


def asked(
    models: Sequence[ServedModel], *requests: tuple[str, Any], method: str = "POST", **options: Any
) -> list[httpx.Response]:
    """The answers of the application to requests one after the other, without a port or a thread for it.

    A request is (path, body), the body bytes or a value for JSON; without one it is a GET.
    """

    async def run() -> list[httpx.Response]:
        app = App(models, Options(**options))
        app.start()
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answers = []
            for path, body in requests:
                content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
                kind = {"content-type": "application/json"} if body is not None else {}
                how = method if body is not None else "GET"
                answers.append(await client.request(how, path, content=content, headers=kind))
        await app.close()
        return answers

    return asyncio.run(run())


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until another thread has made the condition true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def in_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    """Results of work(0) to work(count - 1), each in a thread of its own."""
    results: list[Any] = [None] * count

    def one(index: int) -> None:
        results[index] = work(index)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def statuses(results: Sequence[httpx.Response]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for result in results:
        counts[result.status_code] = counts.get(result.status_code, 0) + 1
    return counts
