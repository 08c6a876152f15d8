"""The default model, built once, and copies of it to spoil.

Import nothing from here: tests/conftest.py has the same name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from shared import made_once
from spoil import Refusal, vector_of
from tensorfile import Derive, Tensors, derive

from gte_runtime import Embedder
from gte_runtime.building.build import build

MINI = Path(__file__).parents[2] / "models" / "gte-mini"
VARIANTS = ("cpu-fp32", "portable-fp32", "cpu-int8", "portable-fp16")


@pytest.fixture
def new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has never seen any bundle."""
    folder = tmp_path / "new-cache"
    monkeypatch.setenv("GTE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def mini_checkpoint() -> Path:
    """The default model as the hub would ship it."""
    return MINI


@pytest.fixture(scope="session")
def mini_bundle(mini_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model as a bundle with all its variants. Not to be changed: see `bundle_copy`."""

    def make(target: Path) -> None:
        build(mini_checkpoint, target, graphs=mini_checkpoint, variants=VARIANTS)

    return made_once(tmp_path_factory, "gte-mini", make)


@pytest.fixture
def bundle_copy(mini_bundle: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the bundle to spoil."""
    target = tmp_path / "copy"
    shutil.copytree(mini_bundle, target)
    yield target
    shutil.rmtree(target, ignore_errors=True)  # 8 MB a test, which pytest would keep


@pytest.fixture(scope="session")
def good_vector(mini_bundle: Path) -> NDArray[np.float32]:
    """What the unspoiled bundle says of spoil.TEXT."""
    with Embedder.open(mini_bundle, threads=1) as gte:
        return vector_of(gte)


@pytest.fixture(scope="session")
def tiny_vector(tiny_bundle: Path) -> NDArray[np.float32]:
    with Embedder.open(tiny_bundle, threads=1) as gte:
        return vector_of(gte)


@pytest.fixture
def refuses(tiny_bundle: Path, tiny_vector: NDArray[np.float32], tmp_path: Path) -> Refusal:
    """Opens a bad bundle and looks at the error; see spoil.Refusal.

    The good one is the smallest there is, to be quick.
    """
    return Refusal(tiny_bundle, tiny_vector, tmp_path)


@pytest.fixture
def derived(mini_checkpoint: Path, tmp_path: Path) -> Iterator[Derive]:
    """Makes a checkpoint from the default model's: with other tensors (`change` edits them in place) or
    config keys.
    """
    made: list[Path] = []

    def make(
        change: Callable[[Tensors], object] | None = None, *, name: str = "derived", **config: Any
    ) -> Path:
        made.append(derive(mini_checkpoint, tmp_path / name, change, config))
        return made[-1]

    yield make
    for directory in made:
        shutil.rmtree(directory, ignore_errors=True)
