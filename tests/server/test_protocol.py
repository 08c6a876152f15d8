"""What `server/protocol.py` and `server/serve.py` depend on inside uvicorn, which promises none of it.

When a test here fails after an update of uvicorn, look at what changed there before raising the ceiling in
pyproject.toml. The behaviour itself is tested in test_bad_requests.py and test_stress.py.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import uvicorn
from httptools import HttpParserError, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gte_runtime.server import serve as serve_module
from gte_runtime.server.metrics import Metrics
from gte_runtime.server.options import Options
from gte_runtime.server.protocol import Connection, protocol_class
from gte_runtime.server.refusals import CODES

CALLED = {
    # The event loop's callbacks.
    "connection_made": ("transport",),
    "connection_lost": ("exc",),
    "data_received": ("data",),
    "pause_writing": (),
    "resume_writing": (),
    # The parser's callbacks.
    "on_message_begin": (),
    "on_url": ("url",),
    "on_header": ("name", "value"),
    "on_headers_complete": (),
    "on_message_complete": (),
    # uvicorn's own.
    "send_400_response": ("msg",),
    "_unset_keepalive_if_required": (),
}
"""Methods of uvicorn's protocol that ours overrides or calls, with their parameters."""

READ = ("connections", "cycle", "headers", "logger", "loop", "parser", "pipeline", "transport")
"""Attributes of uvicorn's protocol that ours reads."""

CYCLE = ("keep_alive", "more_body", "response_complete", "response_started")
"""Attributes of uvicorn's request and response cycle that ours reads or sets."""


async def nothing(scope: object, receive: object, send: object) -> None:
    pass


def config() -> uvicorn.Config:
    return uvicorn.Config(nothing, ws="none", lifespan="off", log_config=None)


@pytest.mark.parametrize("name", CALLED)
def test_methods_of_the_protocol(name: str):
    method = getattr(HttpToolsProtocol, name, None)
    assert callable(method), f"uvicorn's HttpToolsProtocol has no {name}"
    assert tuple(inspect.signature(method).parameters)[1:] == CALLED[name]


def test_ours_overrides_nothing_else():
    """So the table above is complete, and a method that is new in uvicorn does not clash with one of ours."""
    ours = {name for name in vars(Connection) if not name.startswith("__")}
    theirs = set(dir(HttpToolsProtocol))
    assert ours & theirs <= CALLED.keys()


def test_attributes_of_the_protocol():
    async def attributes() -> set[str]:
        uvicorns = uvicorn.Server(config())
        protocol = HttpToolsProtocol(config(), uvicorns.server_state, {})
        ours = protocol_class(Options(), Metrics())(config(), uvicorns.server_state, {})  # type: ignore[call-arg]
        assert isinstance(ours, Connection)
        assert isinstance(protocol.parser, HttpRequestParser)
        return set(vars(protocol))

    assert set(READ) <= asyncio.run(attributes())


def test_attributes_of_the_cycle():
    parameters = inspect.signature(RequestResponseCycle.__init__).parameters
    source = inspect.getsource(RequestResponseCycle.__init__)
    assert "keep_alive" in parameters
    for name in CYCLE:
        assert re.search(rf"self\.{name}\b", source), f"uvicorn's cycle has no {name}"


def test_a_status_line_for_every_refusal():
    assert STATUS_LINE[431] == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    assert {meaning.status for meaning in CODES.values()} <= STATUS_LINE.keys()


def test_an_exception_of_a_callback_stops_the_parser():
    """That is how ours refuses a request while its head is parsed."""

    class Refusing:
        def on_url(self, url: bytes) -> None:
            raise ValueError

    with pytest.raises(HttpParserError):
        HttpRequestParser(Refusing()).feed_data(b"GET / HTTP/1.1\r\n\r\n")


def test_the_server_without_signals():
    assert inspect.isgeneratorfunction(inspect.unwrap(uvicorn.Server.capture_signals))
    server = serve_module._Server(config())
    assert server.should_exit is False


def test_the_installed_version_is_in_the_tested_range():
    """A new minor version needs a look at this file first."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = next(line for line in project["optional-dependencies"]["server"] if line.startswith("uvicorn"))
    found = re.fullmatch(r"uvicorn>=0\.(\d+),<0\.(\d+)", wanted)
    assert found is not None, wanted
    assert int(found[1]) <= int(version("uvicorn").split(".")[1]) < int(found[2])
