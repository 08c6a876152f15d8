"""The address of the server: taken before a model loads, or refused in one line."""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from gte_runtime.cli.serve import command
from gte_runtime.server.app import all_routes
from gte_runtime.server.refusals import Refusal
from gte_runtime.server.routes import Table
from gte_runtime.server.serve import AddressError, take_address


def test_an_address_in_use_is_named_before_a_model_loads(tmp_path: Path):
    """The model does not even exist."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = (
            f"port {port} of 127.0.0.1: Address already in use; another program has it; give another --port"
        )
        began = time.monotonic()
        done = CliRunner().invoke(command, ["--port", str(port), "--model", str(tmp_path / "none")])
        assert isinstance(done.exception, AddressError)
        assert str(done.exception).startswith(words)
        assert done.exception.exit_code == 6
        assert time.monotonic() - began < 30


def test_other_addresses_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(AddressError, match="give --host an address of this machine, or"):
        take_address("192.0.2.1", 0)  # for documentation (RFC 5737), so nobody's

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(AddressError, match="is unknown; give --host an address of this machine"):
        take_address("a" * 70, 0)  # no name: a label has at most 63 characters
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", unknown)
        with pytest.raises(AddressError, match="the host 'elsewhere' is unknown"):
            take_address("elsewhere", 0)

    def refuse(self: socket.socket, address: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(AddressError, match="Permission denied; give a --port from 1024 on"):
        take_address("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("//v1/embeddings", "/v1/embeddings"),
        ("/v1//embeddings", "/v1/embeddings"),
        ("/v1/embeddings/", "/v1/embeddings"),
        ("/v1/v1/embeddings", "/v1/embeddings"),
        ("/v1/embeddings/rerank", "/rerank"),
        ("/api/v2/rerank//", "/v2/rerank"),
    ],
)
def test_a_path_with_a_part_too_many_gets_a_hint(path: str, meant: str):
    """It is still nobody's path: nothing is collapsed or redirected."""
    with pytest.raises(Refusal, match=f"nothing at this path; is it {meant}[?]") as caught:
        Table(all_routes()).find("POST", path)
    assert caught.value.code == "not_found"


@pytest.mark.parametrize("path", ["/nothing", "//", "/" * 60_000, "/x" * 30_000 + "/rerank", "/..%2fetc"])
def test_other_paths_get_none(path: str):
    with pytest.raises(Refusal, match=r"GET /openapi\.json lists what there is"):
        Table(all_routes()).find("POST", path)
