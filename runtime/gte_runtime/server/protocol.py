"""HTTP connections: limits on the head of a request, and deadlines for everything that waits for the client.

uvicorn's httptools protocol parses requests and writes answers. It has no deadline for receiving and no limit
on headers (as of 0.54), and its own errors are plain text. This module subclasses it, and no other depends on
its internals. `tests/server/test_protocol.py` lists what it depends on.
"""

from __future__ import annotations

import asyncio
import json

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .metrics import Metrics
from .options import Options
from .refusals import NATIVE, Refusal


class _Refused(Exception):
    """Raised in a callback of the parser to stop it. The parser raises HttpParserError in its place."""


def protocol_class(options: Options, metrics: Metrics) -> type[asyncio.Protocol]:
    """A class for uvicorn, which makes one object of it for each connection."""

    class Protocol(Connection):
        limits = options
        counters = metrics

    return Protocol


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    limits: Options
    counters: Metrics

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        """Ends the wait for a head or a body."""
        self._write_timer: asyncio.TimerHandle | None = None
        self._refusal: Refusal | None = None
        """Once it is set, the connection closes, and nothing more is read."""
        self._in_head = True
        self._in_body = False
        self._head_bytes = self._fields_bytes = self._fields = 0
        self._muted = False
        """The parser reads a head that was not sent; see `_parse`."""
        if len(self.connections) > self.limits.max_connections:
            most = self.limits.max_connections
            message = f"there are more than {most} connections (--max-connections); try again later"
            self._close_with(Refusal("too_many_connections", message, headers={"retry-after": "1"}))
            return
        self._expect(self.limits.header_timeout, "header")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return  # it is answered, and the connection is closing
        if self._in_head:
            if self._timer is None:  # the first bytes of a further request
                self._expect(self.limits.header_timeout, "header")
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")
        if self._in_head and self._head_bytes > self.limits.max_header_bytes and self._refusal is None:
            self._close_with(self._head_too_large())

    def _parse(self, data: bytes) -> None:
        """Feed the parser, and ignore requests for an upgrade, as a server may (RFC 9110, 7.8).

        Java's client asks for HTTP/2 with every first request. httptools cannot ignore that: it takes the
        body for bytes of the other protocol and stops. So a new parser reads the body. It is first given a
        head of its own, which says no more than how long the body is; until that is read, its callbacks are
        muted.
        """
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            framing = [
                b"%b: %b" % each
                for each in self.headers
                if each[0] in (b"content-length", b"transfer-encoding")
            ]
            self.parser = HttpRequestParser(self)
            self._muted = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % (framing or [b"content-length: 0"])[0])

    # Callbacks of the parser.
    def on_message_begin(self) -> None:
        if self._muted:
            return
        super().on_message_begin()
        self._in_head = True
        self._fields_bytes = self._fields = 0
        if self._timer is None:  # it came in one piece with the end of the request before it
            self._expect(self.limits.header_timeout, "header")

    def on_url(self, url: bytes) -> None:
        if self._muted:
            return
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._muted:
            return
        self._count(len(name) + len(value) + 4)
        self._fields += 1
        if self._fields > self.limits.max_headers:
            self._refuse(self._head_too_large())
        if self._in_head:  # trailers, after a body in chunks, must not be taken for headers (RFC 9110, 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._muted:
            self._muted = False
            return
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            self._refuse(Refusal("invalid_request", "this server speaks HTTP/1.1 and HTTP/1.0"))
        self._check_framing()
        self._in_head = False
        self._in_body = True
        self._head_bytes = self._fields_bytes = self._fields = 0
        self._expect(self.limits.body_timeout, "body")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # its body comes next; see `_parse`
        self._stop_timer()
        self._in_head = True
        self._in_body = False
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._fields_bytes += size
        if self._fields_bytes > self.limits.max_header_bytes:
            self._refuse(self._head_too_large())

    def _check_framing(self) -> None:
        """Refuse a body whose length is given in more than one way (RFC 9112, 6.3).

        Servers differ in which length they take, and the rest of the body becomes a request that nobody sent.
        The parser refuses most such requests itself; this does not depend on its version.
        """
        lengths = [value for name, value in self.headers if name == b"content-length"]
        coded = [value for name, value in self.headers if name == b"transfer-encoding"]
        if len(lengths) + len(coded) > 1 or any(value.strip().lower() != b"chunked" for value in coded):
            self._refuse(Refusal("invalid_request", "the length of the body is told in more than one way"))

    def _head_too_large(self) -> Refusal:
        limit = (
            f"{self.limits.max_header_bytes} bytes (--max-header-bytes) or {self.limits.max_headers} headers"
        )
        return Refusal("headers_too_large", f"the head of the request is over the limit of {limit}")

    def _refuse(self, refusal: Refusal) -> None:
        self._refusal = refusal
        raise _Refused

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this for whatever the parser refuses, which includes our own refusals."""
        self._close_with(self._refusal or Refusal("invalid_request", "this is not HTTP/1.1 as it should be"))

    def _close_with(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self._stop_timer()
        self.counters.connections_refused.labels(refusal.code).inc()
        if self._answering():
            self.cycle.keep_alive = False  # the answer is still sent
            return
        if self._answered():
            self.transport.close()
            return
        status = refusal.meaning.status
        body = json.dumps(NATIVE.body(refusal, status, "")).encode()
        head = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **refusal.headers,
        }
        lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in head.items())
        self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        self.transport.close()

    def _answering(self) -> bool:
        """A whole request was received and its answer is not complete: an error would become a part of it."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        return self.cycle.response_started or not self.cycle.more_body or bool(self.pipeline)

    def _answered(self) -> bool:
        """The answer was sent before the body was complete, so the rest of the body needs none."""
        return self._in_body and self.cycle is not None and self.cycle.response_complete

    # Deadlines.
    def _expect(self, seconds: float, what: str) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._too_slow, what)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self, what: str) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if what == "header" and not self._head_bytes + self._fields_bytes:
            self.transport.close()  # no request was begun, so none is answered
            return
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
        else:
            self._close_with(Refusal("request_timeout", f"the {what} of the request took too long"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.write_timeout, self._not_read)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _not_read(self) -> None:
        self.counters.connections_refused.labels("answer_not_read").inc()
        self.transport.abort()
