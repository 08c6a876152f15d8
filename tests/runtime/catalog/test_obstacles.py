"""`gte pull` behind a proxy, a login page and a certificate that nobody knows: one line says what is in the
way, without the attempts that are for errors that pass."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gte_runtime.catalog.hub import _proxy_answer, _tls_failure

UNKNOWN, NAMED = "org/model", "gte-multilingual-base"
"""The first is looked up before its files are asked for; of the second the commit is known."""


class Obstacle(BaseHTTPRequestHandler):
    """A proxy that wants a password, and a network that answers everything with its login page."""

    def do_CONNECT(self) -> None:
        self.reply(407)

    def do_GET(self) -> None:
        if self.path.startswith("http://"):
            self.reply(407)
        elif self.path.startswith("/moved/"):
            self.reply(302, location=f"http://{self.headers['host']}/login")
        else:
            self.reply(200, b"<html>Please log in</html>", content_type="text/html; charset=utf-8")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that does not trust the certificate."""


@pytest.fixture(scope="module")
def obstacle() -> Iterator[str]:
    with Quiet(("127.0.0.1", 0), Obstacle) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def unknown_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Quiet(("127.0.0.1", 0), Obstacle) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def pull(name: str, folder: Path, **environment: str) -> str:
    """The last line of stderr. The library's own pauses are left out; one of ours would be a traceback."""
    program = (
        "import time; time.sleep = lambda seconds: None; "
        "import gte_runtime.catalog.hub as hub; hub.download.__kwdefaults__['wait'] = None; "
        "from gte_runtime.cli import main; main()"
    )
    plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", program, "pull", name, "-o", str(folder / "never")],
        env={**plain, "HF_HOME": str(folder), "GTE_CACHE": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not (folder / "never").exists()
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [UNKNOWN, NAMED])
def test_a_proxy_that_wants_a_password(name: str, obstacle: str, tmp_path: Path):
    line = pull(name, tmp_path, HTTPS_PROXY=f"http://{obstacle}")
    assert "the proxy answered 407 Proxy Authentication Required; HTTPS_PROXY=http://NAME:PASSWORD@" in line


@pytest.mark.slow
def test_a_proxy_for_plain_http(obstacle: str, tmp_path: Path):
    line = pull(UNKNOWN, tmp_path, HTTP_PROXY=f"http://{obstacle}", HF_ENDPOINT="http://hub.example")
    assert "the proxy answered 407" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", [UNKNOWN, NAMED])
@pytest.mark.parametrize("path", ["", "/moved"])
def test_a_login_page(name: str, path: str, obstacle: str, tmp_path: Path):
    """With status 200, or after a redirect to another address."""
    line = pull(name, tmp_path, HF_ENDPOINT=f"http://{obstacle}{path}")
    assert "not a model hub's; open a browser and log in to this network" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", [UNKNOWN, NAMED])
def test_a_certificate_that_nobody_knows(name: str, unknown_certificate: str, tmp_path: Path):
    line = pull(name, tmp_path, HF_ENDPOINT=f"https://{unknown_certificate}")
    assert "no secure connection: self-signed certificate; if a proxy here signs" in line
    assert "SSL_CERT_FILE" in line


@pytest.mark.slow
def test_a_user_without_a_home_directory(obstacle: str, tmp_path: Path):
    """Downloads go into our cache, and not into a folder with the name "~" wherever the user is."""
    program = (
        "import os, sys; os.path.expanduser = lambda path: path; from gte_runtime.cli import main\n"
        "try: main()\n"
        "finally: from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    )
    plain = {key: value for key, value in os.environ.items() if key not in ("HF_HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", program, "pull", UNKNOWN, "-o", str(tmp_path / "never")],
        env={**plain, "GTE_CACHE": str(tmp_path), "HF_ENDPOINT": f"http://{obstacle}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "not a model hub's" in done.stderr
    assert done.stdout.strip() == str(tmp_path / "huggingface" / "hub")


@pytest.mark.slow
def test_a_server_without_tls(obstacle: str, tmp_path: Path):
    line = pull(UNKNOWN, tmp_path, HF_ENDPOINT=f"https://{obstacle}")
    assert "no secure connection: wrong version number; check HF_ENDPOINT and HTTPS_PROXY" in line


def test_what_may_pass_is_no_obstacle():
    """A connection that broke off during the handshake, and an error that only speaks of a number."""
    broken = ConnectionError("refused")
    broken.__cause__ = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
    assert _tls_failure(broken) is None
    assert _proxy_answer(ConnectionError("407 Proxy Authentication Required is not said by a proxy")) is None
    tunnel = OSError("Tunnel connection failed: 403 Forbidden")
    assert _proxy_answer(ConnectionError(tunnel)) == "403 Forbidden"
