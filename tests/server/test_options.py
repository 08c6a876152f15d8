"""What changes when the server is told otherwise."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from serving import GTE, gated

from gte_runtime import Embedder
from gte_runtime.bundle.directory import Bundle
from gte_runtime.cli import serve
from gte_runtime.errors import ConfigError
from gte_runtime.server.options import Options


def test_strict_refuses_what_it_does_not_know(tiny_bundle: Path):
    with gated(tiny_bundle, strict=True, strict_model=True) as (here, _):
        unknown = here.post("/v1/encode", {"input": "a", "colour": "red"})
        assert (unknown.status_code, unknown.json()["error"]["code"], unknown.json()["error"]["param"]) == (
            422,
            "unknown_field",
            "colour",
        )
        other = here.post("/v1/embeddings", {"input": "a", "model": "text-embedding-3-small"})
        assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
        for name in ("m" * 1_000_000, 'x\n{"event":"forged"}'):
            refused = here.post("/v1/embeddings", {"input": "a", "model": name})
            assert refused.status_code == 404
            assert len(refused.content) < 400
            assert "forged" not in refused.text
        name = here.server.models[0].name
        assert here.post("/v1/embeddings", {"input": "a", "model": name, "user": "u"}).status_code == 200
        assert here.post("/v1/embeddings", {"input": "a"}).status_code == 200


def test_only_the_variant_that_is_served_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a shipped model, which is built when it is first asked for."""
    monkeypatch.setenv("GTE_CACHE", str(tmp_path))
    engine = serve._open("gte-mini", "cpu", "cpu-int8", 1, False)
    engine.close()
    assert engine.info["variant"] == "cpu-int8"
    assert len(list((tmp_path / "bundles").iterdir())) == 1


def test_token_ids_are_run_as_they_are(tiny_bundle: Path):
    """Never decoded and encoded again: the vector is that of these very tokens."""
    with gated(tiny_bundle, accept_token_ids=True) as (here, gate), Embedder.open(tiny_bundle) as gte:
        text = "Hello, мир 北京"
        ids = [token for token, _ in gte.tokenize(text)]
        want = gte.encode(text).dense[0]
        for given in (ids, [ids]):
            answer = here.post("/v1/embeddings", {"input": given})
            np.testing.assert_array_equal(np.array(answer.json()["data"][0]["embedding"], np.float32), want)
            assert answer.json()["usage"]["prompt_tokens"] == len(ids)
        both = here.post("/v1/encode", {"input": [ids, text], "sparse": True}).json()["data"]
        assert both[0]["sparse"] == both[1]["sparse"]
        runs = len(gate.runs)
        rows = gte.manifest.architecture.vocab_size
        bad: list[Any]
        for bad in ([-1], [0, rows], [[0, 1], [rows]], [[]], [2**40]):
            refused = here.post("/v1/embeddings", {"input": bad})
            assert refused.status_code == 400, bad
            assert refused.json()["error"]["param"].startswith("input")
        for bad in ([0, True], [0, 1.5], [[0, "a"]], [0, "a"]):
            assert here.post("/v1/embeddings", {"input": bad}).status_code == 400, bad
        assert len(gate.runs) == runs
        # They are cut as texts are, and refused as they are.
        assert here.post("/v1/embeddings", {"input": [5] * 8193}).json()["usage"]["truncated"] == 1
        whole = here.post("/v1/embeddings", {"input": [5] * 8193, "truncate": False})
        assert (whole.status_code, whole.json()["error"]["code"]) == (400, "text_too_long")


def test_the_empty_string_when_allowed(tiny_bundle: Path):
    """Its vector is that of `<s></s>`, as in the library."""
    with gated(tiny_bundle, allow_empty=True) as (here, _), Embedder.open(tiny_bundle) as gte:
        item = here.post("/v1/encode", {"input": ["", "a"], "sparse": True}).json()["data"][0]
        np.testing.assert_array_equal(np.array(item["embedding"], np.float32), gte.encode("").dense[0])
        assert (item["tokens"], item["sparse"]["indices"]) == (2, [])
        assert here.post("/embed", {"inputs": ""}).status_code == 200


def test_smaller_limits_are_named_in_their_errors(tiny_bundle: Path):
    with gated(tiny_bundle, max_inputs=3, max_request_tokens=20, max_body=300, max_header_bytes=1000) as (
        here,
        _,
    ):
        for body, word in (
            ({"input": ["a"] * 4}, "--max-inputs"),
            ({"input": "a " * 50}, "--max-request-tokens"),
            ({"input": "a" * 400}, "--max-body"),
        ):
            assert word in here.post("/v1/encode", body).json()["error"]["message"]
        head = here.get("/health", headers={"x": "y" * 2000})
        assert head.status_code == 431
        assert "--max-header-bytes" in head.json()["error"]["message"]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Names of the models and the options that `gte serve` would serve with."""
    found: list[Any] = []

    def instead(models: Any, options: Options, **others: Any) -> int:
        found.extend(([model.name for model in models], options))
        return 0

    monkeypatch.setattr("gte_runtime.server.serve.serve", instead)
    return found


def test_models_are_served_under_names_of_one_s_own(tiny_bundle: Path, tmp_path: Path, served: list[Any]):
    """Several builds of one checkpoint have the same name in their manifests."""
    strange = tmp_path / "step=500"
    strange.symlink_to(tiny_bundle)
    arguments = ["--threads", "1", "--model", str(tiny_bundle), "--model", f"new={strange}"]
    assert CliRunner().invoke(serve.command, [*arguments, "--url-prefix", "gte/"]).exit_code == 0
    assert served[0] == [Bundle.open(tiny_bundle).manifest.model, "new"]
    assert served[1].url_prefix == "/gte"
    twice = CliRunner().invoke(serve.command, ["--threads", "1", *(["--model", str(tiny_bundle)] * 2)])
    assert twice.exit_code == 2
    assert "--model NAME=PATH" in twice.output
    assert serve.named(str(strange)) == (None, str(strange))
    for bad in ("=x", "name=", "na\nme=x"):
        with pytest.raises(click.UsageError, match="NAME=PATH"):
            serve.named(bad)


def test_idle_connections_outlive_those_of_load_balancers():
    """AWS, Google and nginx close after 60 seconds; who closes first must be the one who sends requests."""
    assert Options().keep_alive > 60


@pytest.mark.parametrize("prefix", ["gte", "/gte/", "//a", "/a b", "/a?b"])
def test_a_prefix_is_a_path(prefix: str):
    with pytest.raises(ConfigError, match="url_prefix"):
        Options(url_prefix=prefix)


@pytest.mark.parametrize(
    "bad", [{"keys": (b"",)}, {"max_body": 0}, {"header_timeout": 0.0}, {"patience": -0.1}]
)
def test_options_check_themselves(bad: dict[str, object]):
    with pytest.raises(ConfigError):
        Options(**bad)  # type: ignore[arg-type]


def test_the_line_that_says_where_is_true(tiny_bundle: Path, tmp_path: Path):
    """A client that connects the moment it reads the address gets through."""
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        command = [*GTE, "serve", "--port", "0", "--model", str(tiny_bundle)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                line = next(line for line in process.stderr if line.startswith("gte: serving"))
                socket.create_connection(("127.0.0.1", int(line.rpartition(":")[2])), timeout=10).close()
            finally:
                process.terminate()
                process.communicate(timeout=30)
