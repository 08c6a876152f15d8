"""One server for tests that only send requests.

Import nothing from here: tests/conftest.py has the same name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Process

from gte_runtime import Embedder, Reranker


@pytest.fixture(scope="session")
def server(
    tiny_bundle: Path, reranker_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    """`gte serve` with the golden embedder and the tiny reranker. Its log must not hold a traceback."""
    process = Process(
        tmp_path_factory.mktemp("serve"),
        "--model",
        str(tiny_bundle),
        "--model",
        str(reranker_bundle),
        "--threads",
        "2",
    )
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.log_text()
    assert process.process.stdout is None or process.process.stdout.closed


@pytest.fixture(scope="session")
def gte(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle) as engine:
        yield engine


@pytest.fixture(scope="session")
def reranker(reranker_bundle: Path) -> Iterator[Reranker]:
    with Reranker.open(reranker_bundle) as engine:
        yield engine
