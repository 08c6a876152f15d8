"""A live `gte serve` for real clients, with a key. Each folder has an environment of its own: see `make
test-clients`.

Nothing of gte_runtime is imported: what a client should have got is asked of the server's own dialect, whose
bits are held to the library's by tests/server.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GTE = os.environ.get("GTE_CLI")
"""The `gte` command to serve with. Without it nothing here is collected: these tests are not for our own
environment."""

collect_ignore_glob = [] if GTE else ["*"]

RERANKER = Path(__file__).parent.parent / "data" / "gte-tiny-reranker"
KEY = "key-of-the-client-tests"
QUERY = "what is the capital of China?"
TEXTS = [
    QUERY,
    "北京是中华人民共和国的首都。",
    "Пекин — столица Китая.",
    "how to implement quick sort in python?",
]

# Clients that look for news or report home have nobody to talk to here.
os.environ |= {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_PROXY": "127.0.0.1",
}


@dataclass(frozen=True)
class Server:
    url: str
    key: str
    model: str = "gte-mini"
    reranker: str = "gte-tiny-reranker"

    def post(self, path: str, body: Any) -> Any:
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key or 'none'}"}
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, json.dumps(body).encode(), headers), timeout=30
        ) as answer:
            return json.load(answer)

    def encode(self, texts: list[str], **options: Any) -> list[dict[str, Any]]:
        return self.post("/v1/encode", {"input": texts, **options})["data"]

    def dense(self, texts: list[str], **options: Any) -> np.ndarray:
        return np.array([item["embedding"] for item in self.encode(texts, **options)], np.float32)

    def ranked(
        self, query: str, documents: list[str], best: int | None = None
    ) -> tuple[list[int], list[float]]:
        """Places and scores from best to worst."""
        results = self.post("/v2/rerank", {"query": query, "documents": documents})["results"][:best]
        return [item["index"] for item in results], [item["relevance_score"] for item in results]


@contextlib.contextmanager
def serving_models(
    folder: Path,
    key: str,
    models: Sequence[str] = ("gte-mini", "gte-tiny-reranker"),
    options: Sequence[str] = (),
) -> Iterator[Server]:
    """Models behind a key, or behind none if it is empty."""
    assert GTE is not None
    bundle, log, keys = folder / "gte-tiny-reranker", folder / "log", folder / "keys"
    keys.write_text(key)
    subprocess.run(
        [GTE, "build", str(RERANKER), str(bundle), "--graphs", str(RERANKER / "graphs")],
        check=True,
        capture_output=True,
    )
    paths = [str(bundle) if model == bundle.name else model for model in models]
    arguments = [
        "serve",
        *(part for path in paths for part in ("--model", path)),
        "--port",
        "0",
        *(["--api-key-file", str(keys)] if key else []),
        *options,
    ]
    with log.open("wb") as stderr:
        process = subprocess.Popen([GTE, *arguments], stderr=stderr)
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"at (http://\S+:\d+)$", log.read_text(), re.MULTILINE)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield Server(found[1], key)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0
    assert "Traceback" not in log.read_text()
    assert not key or key not in log.read_text()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_models(tmp_path_factory.mktemp("serve"), KEY) as running:
        yield running


@pytest.fixture(scope="session")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_models(tmp_path_factory.mktemp("keyless"), "") as running:
        yield running


@pytest.fixture(scope="session")
def serving() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    return serving_models


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return list(TEXTS)
