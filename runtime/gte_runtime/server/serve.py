"""`gte serve`: from models and options to a running server and its exit code.

The only module with signals and listening sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn

from ..errors import GteError
from . import logs
from .app import App
from .models import ServedModel
from .options import Options
from .protocol import protocol_class

log = logging.getLogger("gte_runtime.server")

BACKLOG = 1024
"""Connections that may wait to be accepted."""
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors on which asyncio stops accepting connections for a second, and then tries again."""
LOG_NO_ROOM_EVERY = 60.0
"""Seconds between two log lines about them."""


class AddressError(GteError, OSError):
    """The address of the server cannot be had."""

    exit_code = 6


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: they raise the signal again after the drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    models: Sequence[ServedModel],
    options: Options,
    *,
    host: str,
    listening: socket.socket,
    log_format: str,
    log_level: str,
) -> int:
    """Serve at an address of `take_address` until SIGTERM or SIGINT, and return the exit code: 0 after a
    drain. A second signal ends at once.

    Even if a run does not end, the process ends `drain_timeout` seconds after the first signal, plus the time
    to answer the requests that are left.
    """
    logs.set_up(log_format, log_level)
    _make_room(options.max_connections)
    on_loopback = ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback
    app = App(models, replace(options, check_host=options.check_host or on_loopback))
    try:
        return asyncio.run(_serve(app, listening, host))
    finally:
        for model in models:
            model.close()


def take_address(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address and does not listen yet.

    Raises:
        AddressError: the address cannot be had.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):  # a label of more than 63 characters is a UnicodeError
        raise AddressError(
            f"the host {host[:80]!r} is unknown; give --host an address of this machine"
        ) from None
    listening = socket.socket(family, kind, proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise AddressError(
            f"port {port} of {host[:80]}: {error.strerror}; {REMEDIES.get(error.errno or 0, 'give another')}"
        ) from None
    return listening


REMEDIES = {
    errno.EADDRINUSE: "another program has it; give another --port, or 0 for a free one",
    errno.EADDRNOTAVAIL: "give --host an address of this machine, or 0.0.0.0 for all of them",
    errno.EACCES: "give a --port from 1024 on, which every user may have",
}


def _make_room(connections: int) -> None:
    """Raise the limit of file descriptors: shells often allow 1024 where the system allows a million.

    They are for all connections, and for those over their limit, which are accepted to be refused.
    """
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
    """asyncio's exception handler, with one log line where descriptors run out.

    asyncio's own logs a traceback for each connection that waits: thousands in seconds.
    """

    def __init__(self) -> None:
        self._logged = -LOG_NO_ROOM_EVERY

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, ValueError) and str(error) == "Invalid file descriptor: -1":
            return  # asyncio tried to accept again after the socket was closed
        if not (isinstance(error, OSError) and error.errno in NO_ROOM):
            loop.default_exception_handler(context)
        elif loop.time() - self._logged >= LOG_NO_ROOM_EVERY:
            self._logged = loop.time()
            log.error("connections have to wait", extra={"fields": {"reason": error.strerror}})


def make_server(app: App) -> uvicorn.Server:
    o = app.server.options
    config = uvicorn.Config(
        app,
        http=protocol_class(o, app.server.metrics),
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
        app.server.health.draining = True
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
        listening.listen(BACKLOG)  # before the line below: whoever reads it may connect at once
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        print(
            f"gte: serving {logs.one_line(', '.join(m.name for m in app.server.models))} at http://{shown}:{port}",
            file=sys.stderr,
            flush=True,
        )
        await server.serve(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        await app.close()
    if code or app.server.scheduler.running:
        # All requests are answered. A run stops only between two operators, and one operator may take seconds
        # on a long text, so the process does not wait for it.
        sys.stderr.flush()
        os._exit(code)
    return 0
