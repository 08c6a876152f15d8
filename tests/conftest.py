"""What all tests share: the golden checkpoint of upstream's outputs, built with graphs that lie beside it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import examples
from golden import Golden, read_golden
from reranking import GRAPHS, RERANKER
from shared import made_once

from gte_runtime.building.build import build

with contextlib.suppress(ImportError):  # the environment of mteb's tests has no hypothesis
    from hypothesis import HealthCheck, settings

    # No test fails because the machine is busy.
    settings.register_profile(
        "untimed", max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("untimed")

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import ONNX Runtime themselves

VARIANTS = ("cpu-fp32", "portable-fp32", "cpu-int8", "portable-fp16")


@pytest.fixture(scope="session")
def golden() -> Golden:
    return read_golden()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests never touch the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GTE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_bundle(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint, built in every variant."""

    def make(target: Path) -> None:
        build(golden.checkpoint, target, graphs=golden.graphs, variants=VARIANTS)

    return made_once(tmp_path_factory, "tiny-bundle", make)


@pytest.fixture(scope="session")
def reranker_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny reranker, built in every variant."""
    return made_once(
        tmp_path_factory,
        "gte-tiny-reranker",
        lambda target: build(RERANKER, target, graphs=GRAPHS, variants=VARIANTS),
    )
