"""Names and paths lead to bundles."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from spoil import change_manifest, replace_signed, vector_of

import gte_runtime.catalog.locate
from gte_runtime import Embedder, Reranker
from gte_runtime.bundle.directory import Bundle
from gte_runtime.catalog.locate import locate
from gte_runtime.errors import BundleError, ConfigError
from gte_runtime.format.manifest import FORMAT
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


SHIPPED, PULLED = "gte-mini", "owner/name"


@pytest.fixture
def cached(tiny_bundle: Path, new_cache: Path) -> Callable[[str], Path]:
    """Puts a bundle where a name leads to, as `gte pull` and the first opening would."""

    def put(model: str) -> Path:
        if model == SHIPPED:
            return locate(model)
        made = new_cache / "pulled" / "owner--name"
        made.parent.mkdir(parents=True, mode=0o700)
        new_cache.chmod(0o700)
        shutil.copytree(tiny_bundle, made)
        assert locate(model) == made
        return made

    return put


def _by_others(bundle: Path) -> None:
    for path in (bundle, *bundle.iterdir()):
        os.chown(path, 65534, 65534)


def _table_by_others(bundle: Path) -> None:
    os.chown(next(bundle.glob("table-*.bin")), 65534, 65534)


def _parent_by_others(bundle: Path) -> None:
    os.chown(bundle.parent, 65534, 65534)


FOREIGN = {
    "bundle": _by_others,
    "table": _table_by_others,
    "parent": _parent_by_others,
    "bundle writable": lambda bundle: bundle.chmod(0o777),
    "parent writable": lambda bundle: bundle.parent.chmod(0o1777),
    "table writable": lambda bundle: next(bundle.glob("table-*.bin")).chmod(0o664),
}


@pytest.mark.parametrize("how", FOREIGN)
def test_a_pulled_bundle_of_another_user(cached: Callable[[str], Path], how: str):
    """A name does not open what another user could have written; a path is the user's choice."""
    if not how.endswith("writable") and os.geteuid() != 0:
        pytest.skip("only root can play another user")
    bundle = cached(PULLED)
    FOREIGN[how](bundle)
    why = "can be written to by other users" if how.endswith("writable") else "belongs to another user"
    with pytest.raises(BundleError, match=f"{why}.*`gte pull owner/name` makes a bundle of your own"):
        locate(PULLED)
    Embedder.open(bundle).close()


@pytest.mark.slow
@pytest.mark.parametrize("how", FOREIGN)
def test_a_shipped_model_in_a_bundle_of_another_user(
    cached: Callable[[str], Path], mini_bundle: Path, how: str
):
    """It is passed over, and the model is built in a place of this user's own."""
    if not how.endswith("writable") and os.geteuid() != 0:
        pytest.skip("only root can play another user")
    bundle = cached(SHIPPED)
    data = bytearray((bundle / "weights-fp32.bin").read_bytes())
    rng = np.random.default_rng(0)
    evil = rng.permutation(np.frombuffer(data, np.float32)).tobytes()
    replace_signed(bundle, "weights-fp32.bin", evil)
    change_manifest(bundle, lambda raw: raw["variants"]["cpu-fp32"].update(tolerance=2.0))
    FOREIGN[how](bundle)
    with Embedder.open(mini_bundle, threads=1) as gte:
        expected = vector_of(gte)
    with Embedder.open(SHIPPED, threads=1) as gte:
        np.testing.assert_array_equal(vector_of(gte), expected)
    assert locate(SHIPPED) == bundle.parent.parent / f"bundles-{os.geteuid()}" / bundle.name
    assert (bundle / "weights-fp32.bin").read_bytes() == evil


@pytest.mark.slow
def test_a_cache_that_others_can_write_to(cached: Callable[[str], Path], new_cache: Path):
    """There is no place of this user's own in it, so a name is refused, and nothing is built."""
    cached(SHIPPED)
    new_cache.chmod(0o777)
    with pytest.raises(BundleError, match=r"can be written to by other users .*set GTE_CACHE"):
        Embedder.open(SHIPPED)
    assert sorted(path.name for path in new_cache.iterdir()) == ["bundles"]


@pytest.mark.slow
def test_a_bundle_of_an_old_form_is_built_again(
    new_cache: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    """The form is part of a shipped model's name in the cache, so an update of the package builds it anew."""
    with monkeypatch.context() as patch:
        patch.setattr(gte_runtime.catalog.locate, "FORMAT", 1)
        old = locate(SHIPPED)
    assert locate(SHIPPED) != old
    assert Bundle.open(locate(SHIPPED)).manifest.format == FORMAT
    assert not recwarn.list


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
