"""From options to a running server and its exit code. The only module with signals and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import uvicorn

from . import logs
from .app import App
from .models import ServedModel
from .options import Options
from .protocol import protocol_class

log = logging.getLogger("gte_runtime.server")

BACKLOG = 1024
"""Connections that wait to be accepted."""
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""With these asyncio's accept stops for a second, and is tried again."""
NO_ROOM_EVERY = 60.0
"""Seconds from one line about it to the next."""


class _Server(uvicorn.Server):
    """uvicorn's server, without its signals: it would end by the signal that it was told to stop with."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    models: Sequence[ServedModel], options: Options, *, host: str, port: int, log_format: str, log_level: str
) -> int:
    """Serve until SIGTERM or SIGINT; the exit code, 0 after a drain. A second signal ends at once.

    Whatever runs, the process is gone `drain_timeout` after the first signal, and as long as it takes to tell those who wait.
    """
    logs.set_up(log_format, log_level)
    _make_room(options.max_connections)
    listening = _listen(host, port)
    app = App(models, options)
    try:
        return asyncio.run(_serve(app, listening, host))
    finally:
        for model in models:
            model.close()


def _listen(host: str, port: int) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening


def _make_room(connections: int) -> None:
    """Descriptors for all connections, and for as many as are accepted at a time to be told that there are too many: shells
    often allow 1024 where the system would give a million."""
    try:
        import resource
    except ImportError:  # Windows
        return
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 2 * BACKLOG
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class _Unhandled:
    """What asyncio tells of errors that are nobody's. Out of descriptors it tells of each of the connections that wait, with a
    traceback (thousands of them in seconds): that is one line here."""

    def __init__(self) -> None:
        self._told = -NO_ROOM_EVERY

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, ValueError) and str(error) == "Invalid file descriptor: -1":
            return  # the second's wait ended after the server had stopped listening
        if not (isinstance(error, OSError) and error.errno in NO_ROOM):
            loop.default_exception_handler(context)
        elif loop.time() - self._told >= NO_ROOM_EVERY:
            self._told = loop.time()
            log.error("connections have to wait", extra={"fields": {"reason": error.strerror}})


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
    loop.set_exception_handler(_Unhandled())
    app.start(stop)
    before = {number: signal.signal(number, signalled) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        listening.listen(BACKLOG)  # before the line that says so: whoever reads it may connect at once
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        print(
            f"gte: serving {', '.join(m.name for m in app.models)} at http://{shown}:{port}",
            file=sys.stderr,
            flush=True,
        )
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
