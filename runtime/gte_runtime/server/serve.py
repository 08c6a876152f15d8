"""From options to a running server and its exit code. The only module with signals and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

import uvicorn

from . import logs
from .app import App
from .engine import Engine
from .options import Options
from .protocol import protocol_class

BACKLOG = 1024
"""Connections that wait to be accepted."""


class _Server(uvicorn.Server):
    """uvicorn's server, without its signals: it would end by the signal that it was told to stop with."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(models: Sequence[Engine], options: Options, *, host: str, port: int, log_format: str, log_level: str) -> int:
    """Serve until SIGTERM or SIGINT; the exit code, 0 after a drain. A second signal ends at once.

    Whatever runs, the process is gone `drain_timeout` after the first signal, and as long as it takes to tell those who wait.
    """
    logs.set_up(log_format, log_level)
    listening = _listen(host, port)
    app = App(models, options)
    try:
        return asyncio.run(_serve(app, listening, host))
    finally:
        for model in models:
            model.close()


def _listen(host: str, port: int) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, kind, proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening


def make_server(app: App) -> uvicorn.Server:
    o = app.options
    config = uvicorn.Config(
        app,
        http=protocol_class(o, app.metrics),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=o.keep_alive,  # type: ignore[arg-type]
        timeout_graceful_shutdown=o.drain_timeout,  # type: ignore[arg-type]
        backlog=BACKLOG,
    )
    return _Server(config)


async def _serve(app: App, listening: socket.socket, host: str) -> int:
    server = make_server(app)
    code = 0

    def stop(with_code: int) -> None:
        nonlocal code
        code = code or with_code
        app.health.draining = True
        server.should_exit = True

    def signalled(number: int, frame: FrameType | None) -> None:
        if server.should_exit:
            os._exit(128 + number)
        loop.call_soon_threadsafe(stop, 0)

    loop = asyncio.get_running_loop()
    app.start(stop)
    before = {number: signal.signal(number, signalled) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        listening.listen(BACKLOG)  # before the line that says so: whoever reads it may connect at once
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        print(f"gte: serving {', '.join(m.name for m in app.models)} at http://{shown}:{port}", file=sys.stderr, flush=True)
        await server.serve(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        await app.close()
    if code or app.scheduler.running:
        # Who waited for these runs has his answer, and a run stops between two operators only: of a long text they take seconds.
        sys.stderr.flush()
        os._exit(code)
    return 0
