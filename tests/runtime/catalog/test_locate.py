"""Names and paths lead to bundles."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gte_runtime import Embedder, Reranker
from gte_runtime.catalog.locate import locate
from gte_runtime.errors import BundleError, ConfigError
from gte_runtime.format.models import models_directory


@pytest.mark.slow
def test_a_name_wins_over_a_checkpoint_of_that_name(monkeypatch: pytest.MonkeyPatch):
    """Beside a checkout's models, "gte-mini" is still the model and not the folder."""
    monkeypatch.chdir(models_directory())
    with Embedder.open("gte-mini") as gte:
        assert gte.manifest.model == "gte-mini"


def test_a_bundle_wins_over_a_name(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A bundle directory here is what a user means by its name."""
    (tmp_path / "gte-mini").symlink_to(tiny_bundle)
    monkeypatch.chdir(tmp_path)
    assert locate("gte-mini") == Path("gte-mini")
    with Embedder.open("gte-mini") as gte:
        assert gte.manifest.model == "gte-tiny-random"


def test_a_checkpoint_is_no_bundle():
    """A checkpoint's directory is told apart, with the command that helps."""
    with pytest.raises(BundleError, match=r"this is a checkpoint: `gte build"):
        Embedder.open(models_directory() / "gte-mini")


def test_a_file_is_no_bundle(tmp_path: Path):
    """A file is named as one."""
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.onnx is a file"):
        Embedder.open(str(tmp_path / "model.onnx"))


@pytest.mark.parametrize("model", [None, 7, b"gte-mini", ["gte-mini"]])
def test_what_is_no_name(model: object):
    """Such as a variable of the environment that is not set: an error of ours, which says what it was."""
    for kind in (Embedder, Reranker):
        with pytest.raises(ConfigError, match=r"model is .*; expected a bundle directory or the name"):
            kind.open(model)  # type: ignore[arg-type]


COMMAND = [sys.executable, "-c", "from gte_runtime.cli import main; main()"]


def gte(
    *args: str | bytes, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *args], input=stdin, capture_output=True, timeout=120, check=False, cwd=cwd
    )


@pytest.mark.slow
def test_shipped_model_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The default model is built into the cache at first use, and opened from there later."""
    monkeypatch.setenv("GTE_CACHE", str(tmp_path))
    with Embedder.open("gte-mini"):
        (bundle,) = (tmp_path / "bundles").iterdir()
        before = bundle.stat().st_ino
    with Embedder.open("gte-mini"):
        assert bundle.stat().st_ino == before
    shutil.rmtree(tmp_path / "bundles")
    with Embedder.open("gte-mini") as engine:
        assert len(engine.encode("text")) == 1
