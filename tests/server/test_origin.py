"""The server is not the browser's: web pages reach it only where it was told so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from serving import Process, answers, gated

from gte_runtime.cli.serve import command
from gte_runtime.errors import ConfigError
from gte_runtime.server.origin import host_allowed, origin_is_own

TEXT = b'{"input":"a"}'


def ask(
    server: Any, method: str, path: str, body: Any = b"", **headers: Any
) -> tuple[int, dict[str, str], bytes]:
    lines = [
        f"{method} {path} HTTP/1.1",
        "connection: close",
        *(f"{n.replace('_', '-')}: {v}" for n, v in headers.items()),
    ]
    if body:
        lines.append(f"content-length: {len(body)}")
    return answers(server.raw("\r\n".join([*lines, "", ""]).encode() + body))[0]


ASKED = [
    ("GET", "/v1/models", b"", "error"),
    ("POST", "/v1/encode", TEXT, "error"),
    ("POST", "/embed", b'{"inputs":"a"}', "error_type"),
    ("POST", "/v2/embed", b'{"texts":["a"]}', "message"),
    ("GET", "/metrics", b"", "error"),
    ("GET", "/health/live", b"", "error"),
    ("GET", "/nothing", b"", "error"),
]


@pytest.mark.parametrize(("method", "path", "body", "shape"), ASKED)
def test_a_page_whose_name_points_here_is_refused(
    server: Process, method: str, path: str, body: bytes, shape: str
):
    """DNS rebinding: to the browser the page and this server have one origin, so only `host` tells."""
    for host in (
        "evil.example",
        f"evil.example:{server.port}",
        "localhost.evil.example",
        "0.0.0.0",
        "127.0.0.1.evil.example",
    ):
        origin = f"http://{host}"
        for headers in ({"host": host}, {"host": host, "origin": origin}):
            status, _, answer = ask(server, method, path, body, content_type="application/json", **headers)
            assert status == 403
            assert shape.encode() in answer
            assert b"--allow-host" in answer


@pytest.mark.parametrize("path", ["/", "/v1/models"])
def test_this_machine_may_ask_by_any_of_its_names(server: Process, path: str):
    for host in (
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        f"127.0.0.1:{server.port}",
        "127.9.9.9",
        "[::1]",
        "[::1]:80",
    ):
        assert ask(server, "GET", path, host=host)[0] == 200


def test_two_hosts_are_as_good_as_the_worse(server: Process):
    found = answers(
        server.raw(
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\nconnection: close\r\n\r\n"
        )
    )
    assert found[0][0] in (400, 403)


@pytest.mark.parametrize(("method", "path", "body", "shape"), ASKED)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_a_page_of_another_origin_is_refused(
    server: Process, method: str, path: str, body: bytes, shape: str, kind: str
):
    """Whatever the content type: a browser sends text/plain without asking first."""
    host = f"127.0.0.1:{server.port}"
    for origin in (
        "https://evil.example",
        "null",
        f"http://localhost:{server.port}",
        f"https://{host}",
        "http://127.0.0.1:1",
    ):
        status, headers, answer = ask(server, method, path, body, host=host, origin=origin, content_type=kind)
        assert status == 403
        assert shape.encode() in answer
        assert b"--cors-allow-origin" in answer
        assert "access-control-allow-origin" not in headers


def test_the_playground_may_ask(server: Process):
    """Its page opens from anywhere, and its own requests have this server's origin."""
    host = f"localhost:{server.port}"
    assert ask(server, "GET", "/", host=host, origin="https://evil.example")[0] == 200
    for origin in (f"http://{host}", f"HTTP://LOCALHOST:{server.port}"):
        status, headers, _ = ask(
            server, "POST", "/v1/encode", TEXT, host=host, origin=origin, content_type="application/json"
        )
        assert status == 200
        assert "access-control-allow-origin" not in headers
    assert ask(server, "POST", "/", b'{"inputs":"a"}', host=host, origin="https://evil.example")[0] == 403


@pytest.fixture(scope="module")
def shared(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(
        tmp_path_factory.mktemp("shared"),
        *("--model", str(tiny_bundle), "--allow-host", "gte.internal", "--allow-host", "10.1.2.3"),
        *("--cors-allow-origin", "https://app.example", "--cors-allow-origin", "http://localhost:3000"),
        env=None,
    )
    yield process
    assert process.stop() == 0


def test_names_that_are_allowed(shared: Process):
    for host, status in (
        ("gte.internal", 200),
        ("GTE.Internal:8080", 200),
        ("10.1.2.3", 200),
        ("10.1.2.4", 403),
    ):
        assert ask(shared, "GET", "/v1/models", host=host)[0] == status


def test_origins_that_are_allowed_may_ask_and_read(shared: Process):
    """With the preflight for what they may not send unasked, and errors that they can read."""
    asked = {
        "access_control_request_method": "POST",
        "access_control_request_headers": "authorization,content-type",
    }
    for origin in ("https://app.example", "http://localhost:3000"):
        for path in ("/v1/embeddings", "/embed"):
            status, headers, body = ask(shared, "OPTIONS", path, host="localhost", origin=origin, **asked)
            assert (status, body) == (204, b"")
            assert headers["access-control-allow-origin"] == origin
            assert headers["access-control-allow-methods"] == "post"  # the helper lowers headers
            assert headers["access-control-allow-headers"] == "authorization,content-type"
            assert headers["vary"] == "origin"
        for body, want in ((TEXT, 200), (b'{"input":7}', 422)):
            status, headers, _ = ask(
                shared,
                "POST",
                "/v1/encode",
                body,
                host="localhost",
                origin=origin,
                content_type="application/json",
            )
            assert (status, headers["access-control-allow-origin"]) == (want, origin)
    for origin in ("https://app.example.evil.example", "http://app.example", "https://app.example:444"):
        assert ask(shared, "OPTIONS", "/v1/encode", host="localhost", origin=origin, **asked)[0] == 403
    status, headers, _ = ask(shared, "GET", "/v1/models", host="localhost")
    assert (status, headers["vary"]) == (200, "origin")
    assert "access-control-allow-origin" not in headers


def test_a_preflight_needs_no_key(tiny_bundle: Path):
    """Browsers send none with it; the request itself needs it."""
    with gated(tiny_bundle, keys=(b"k",), allow_origins=("https://app.example",)) as (here, _):
        origin = {"host": "localhost", "origin": "https://app.example"}
        assert ask(here, "OPTIONS", "/v1/encode", access_control_request_method="POST", **origin)[0] == 204
        status, headers, _ = ask(here, "POST", "/v1/encode", TEXT, content_type="application/json", **origin)
        assert (status, headers["access-control-allow-origin"]) == (401, "https://app.example")


def test_on_other_addresses_any_host_is_answered(tiny_bundle: Path):
    """A proxy sends the name that it was asked by, and its page may come by TLS. Others may not ask."""
    with gated(tiny_bundle) as (here, _):
        assert ask(here, "GET", "/v1/models", host="gte.example")[0] == 200
        for origin, status in (
            ("https://gte.example", 200),
            ("http://gte.example", 200),
            ("https://evil.example", 403),
        ):
            answer = ask(here, "GET", "/v1/models", host="gte.example", origin=origin)
            assert answer[0] == status


def test_every_page_may_be_allowed(tiny_bundle: Path):
    """What is sent back as the origin must look like one."""
    with gated(tiny_bundle, allow_origins=("*",), check_host=True, allow_hosts=("*",)) as (here, _):
        for origin, status in (
            ("https://a.example", 200),
            ("null", 200),
            ("a b", 403),
            ("http://a\x7f", 403),
        ):
            answer = ask(here, "GET", "/v1/models", host="b.example", origin=origin)
            assert answer[0] in ((status, 400) if status == 403 else (status,))
            assert answer[1].get("access-control-allow-origin") == (origin if status == 200 else None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--allow-host", "http://a"),
        ("--allow-host", "a:80"),
        ("--allow-host", ""),
        ("--cors-allow-origin", "a.example"),
        ("--cors-allow-origin", "https://a.example/path"),
        ("--cors-allow-origin", ""),
    ],
)
def test_what_no_request_could_match_is_refused_at_the_start(option: str, value: str):
    error = CliRunner().invoke(command, [option, value]).exception
    assert isinstance(error, ConfigError)
    assert "expected" in str(error)


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.\[\]:@/-]{1,40}", fullmatch=True))
def test_no_other_host_is_taken_for_this_machine(host: str):
    """Whatever the bytes, no exception; and what is allowed is localhost or a loopback address."""
    try:
        value = host.encode("latin-1")
    except UnicodeEncodeError:
        return
    if host_allowed(value, ()):
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() or host.endswith(":") else host
        name = name or host
        assert name.lower() == "localhost" or name.startswith(("127.", "[")), host
    origin_is_own(value, value, ("http", "https"))
