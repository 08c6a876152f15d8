"""Keys: every route but health, metrics and the page needs one; it is compared in constant time."""

from __future__ import annotations

import hmac
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from serving import GTE, Process, answers

from gte_runtime.server import app as app_module
from gte_runtime.server.routes import Route

OPEN = {"/health", "/health/live", "/health/ready", "/ping", "/metrics", "/"}
KEY = "correct-horse-é"
ROUTES = [route for route in app_module.all_routes() if not (route.path in OPEN and route.method == "GET")]


@pytest.fixture(scope="module")
def locked(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys").write_text(f"{KEY}\n\n  second  \n")
    process = Process(folder, "--model", str(tiny_bundle), "--api-key-file", str(folder / "keys"))
    yield process
    assert process.stop() == 0
    log = process.log_text()
    assert "Traceback" not in log
    assert "correct-horse" not in log
    assert "SECRET TEXT" not in log


def asked(locked: Process, route: Route, *headers: bytes) -> int:
    path = route.path.replace("{id}", "x")
    lines = [f"{route.method} {path} HTTP/1.1".encode(), b"host: localhost", b"connection: close", *headers]
    return answers(locked.raw(b"\r\n".join(lines) + b"\r\n\r\n"))[0][0]


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
def test_no_route_answers_without_the_key(locked: Process, route: Route):
    """Absent, wrong, empty, not ASCII, too long, another scheme, twice: 401, on every route there is."""
    right = f"authorization: Bearer {KEY}".encode()
    for headers in (
        (),
        (b"authorization: Bearer wrong",),
        (b"authorization: Bearer ",),
        (b"authorization:",),
        (b"authorization: bearer",),
        (b"authorization: Bearer \xff\xfe",),
        ("authorization: Bearer é".encode(),),
        (b"authorization: Basic " + KEY.encode(),),
        (KEY.encode().join((b"authorization: ", b"")),),
        (right + b"x",),
        (right, right),
        (b"authorization: Bearer " + b"a" * 15_000,),
        (b"x-api-key: " + KEY.encode(),),
    ):
        assert asked(locked, route, *headers) == 401, headers
    assert asked(locked, route, right) != 401
    assert asked(locked, route, b"Authorization: bearer second") != 401


def test_what_is_open(locked: Process):
    for path in OPEN:
        assert locked.get(path).status_code == 200, path


def test_unknown_paths_tell_nothing(locked: Process):
    """Without the key one cannot even learn what there is, and no spelling of an open path opens another."""
    for target in (
        "/nope",
        "/v1/encode/",
        "//v1/encode",
        "/health/../v1/encode",
        "/health%2f..%2fv1/encode",
        "http://a/v1/models",
        "/metrics/x",
    ):
        found = answers(
            locked.raw(f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        )
        assert found[0][0] == 401, target
        assert found[0][1]["www-authenticate"] == "bearer"  # the helper lowers headers


@pytest.mark.parametrize(
    ("path", "shape"), [("/v1/embeddings", "error"), ("/embed", "error_type"), ("/v2/embed", "message")]
)
def test_the_error_speaks_the_dialect(locked: Process, path: str, shape: str):
    body = locked.post(path, {"input": "SECRET TEXT"}).json()
    assert shape in body
    assert "SECRET" not in str(body)


def test_a_body_is_not_read_without_the_key(locked: Process):
    """A huge body of a stranger: answered from the head alone."""
    head = (
        b"POST /v1/encode HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
    )
    assert answers(locked.raw(head, timeout=1))[0][0] == 401


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    """Every key is compared through hmac, also when the first one fits."""
    seen: list[bytes] = []

    def compare(given: bytes, key: bytes) -> bool:
        seen.append(key)
        return hmac.compare_digest(given, key)

    monkeypatch.setattr(app_module, "hmac", SimpleNamespace(compare_digest=compare))
    app_module.check_key((b"one", b"two", b"three"), [(b"authorization", b"Bearer one")])
    assert seen == [b"one", b"two", b"three"]


def refused(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:

    done = subprocess.run(
        [*GTE, "serve", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_an_empty_key_is_no_key(tmp_path: Path):
    """The server refuses to start: everybody would have it."""
    for content in ("", "\n \n"):
        (tmp_path / "keys").write_text(content)
        code, words = refused("--api-key-file", str(tmp_path / "keys"))
        assert (code, "no key" in words) == (2, True)
    assert refused(env={"GTE_API_KEY": ""})[0] == 2
    assert refused("--api-key-file", str(tmp_path / "absent"))[0] == 2


def test_the_world_needs_a_key():
    code, words = refused("--host", "0.0.0.0")
    assert code == 2
    assert "--insecure" in words


@pytest.mark.parametrize(
    "option", ["--max-body", "--max-queue-tokens", "--header-timeout", "--stall-timeout"]
)
def test_limits_are_positive(option: str):
    for value in ("0", "-1"):
        assert refused(option, value)[0] == 2
