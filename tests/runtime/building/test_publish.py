"""A bundle directory appears whole or not at all, and replaces nothing that is not its predecessor."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from spoil import TEXT, vector_of
from tiny import Tiny

import gte_runtime.building.build
import gte_runtime.building.publish
from gte_runtime import Embedder
from gte_runtime.building.judge import prove as real_prove
from gte_runtime.building.transforms import TRANSFORMS
from gte_runtime.errors import (
    OutputError,
    SelfCheckFailed,
)
from gte_runtime.format.manifest import Manifest

PROVE = "gte_runtime.building.build.prove"


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def reversed_rows(transform: Callable[..., Iterator[NDArray[Any]]]) -> Callable[..., Iterator[NDArray[Any]]]:
    """The right values in the wrong order: nothing but the vectors tells."""

    def wrong(*arguments: Any) -> Iterator[NDArray[Any]]:
        for piece in transform(*arguments):
            yield piece[::-1]

    return wrong


def test_a_disk_that_is_full(tiny: Tiny):
    """A write that fails in the middle is an error of the output, and nothing stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        tiny.refused(OutputError, "bundle could not be written", os.strerror(errno.EFBIG))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_parent_that_is_a_file(tiny: Tiny):
    """The output's directory cannot be made where a file stands."""
    tiny.bundle.parent.rmdir()
    tiny.bundle.parent.write_bytes(b"a file")
    tiny.refused(OutputError, "bundle could not be written")


def test_a_name_that_is_too_long(tiny: Tiny):
    """B-64: a name that the file system refuses is an error of the output."""
    tiny.bundle = tiny.bundle.parent / ("x" * 300)
    tiny.refused(OutputError, "could not be written")


@pytest.mark.parametrize("what", ["bundle", "directory", "file"])
def test_what_is_there_is_not_touched(tiny: Tiny, what: str):
    """A target that exists is refused, with the two ways out, before anything is read."""
    if what == "bundle":
        tiny.build()
    elif what == "directory":
        tiny.bundle.mkdir()
    else:
        tiny.bundle.write_bytes(b"mine")
    (tiny.checkpoint / "config.json").unlink()
    tiny.refused(OutputError, "bundle exists already", "another name", "--overwrite")


@pytest.mark.slow
def test_overwrite_replaces(tiny: Tiny):
    """The new bundle takes the place of the old one, of which nothing is left, in it or beside it."""
    tiny.build()
    (tiny.bundle / "notes.txt").write_text("mine", encoding="utf-8")
    tiny.build(variants=("portable-fp32",), overwrite=True)
    assert set(contents(tiny.bundle)) == {
        "manifest.json",
        "tokenizer.json",
        "portable-fp32.onnx",
        "table-fp16.bin",
        "weights-fp32.bin",
    }
    assert [path.name for path in tiny.bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.slow
def test_a_failed_overwrite_leaves_the_old_one(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    """The old bundle stays until the new one is proved."""
    tiny.build()
    before = contents(tiny.bundle)
    monkeypatch.setitem(TRANSFORMS, "transpose", reversed_rows(TRANSFORMS["transpose"]))
    tiny.refused(SelfCheckFailed, overwrite=True)
    assert contents(tiny.bundle) == before


@pytest.mark.slow
def test_a_failed_exchange_leaves_the_old_one(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    """The old bundle stays when the new one cannot take its place."""
    tiny.build()

    def exchange(one: Path, other: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(gte_runtime.building.publish, "exchange", exchange)
    tiny.refused(OutputError, overwrite=True)
    assert tiny.bundle.exists()


def without_exchange(one: Path, other: Path) -> None:
    raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.slow
def test_a_file_system_that_cannot_exchange(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    """Two renames do, and nothing is left beside the bundle."""
    tiny.build()
    (tiny.bundle / "notes.txt").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(gte_runtime.building.publish, "exchange", without_exchange)
    tiny.build(overwrite=True)
    assert "notes.txt" not in contents(tiny.bundle)
    assert [path.name for path in tiny.bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.slow
def test_a_failed_rename_leaves_the_old_one(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    """The same where there is no exchange: the old bundle comes back."""
    tiny.build()
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if target == tiny.bundle and source.name == "0":  # the staged one
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(gte_runtime.building.publish, "exchange", without_exchange)
    monkeypatch.setattr(os, "rename", rename)
    tiny.refused(OutputError, overwrite=True)
    assert tiny.bundle.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
import gte_runtime.building.publish
from gte_runtime.building.build import build
from gte_runtime.machine.files import exchange
def killed(*arguments):
    {first}
    os.kill(os.getpid(), signal.SIGKILL)
{patched} = killed
checkpoint, graphs, bundle = map(Path, sys.argv[1:])
build(checkpoint, bundle, graphs=graphs, overwrite=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the exchange", "after the exchange"])
def test_killed_while_overwriting(tiny: Tiny, moment: str):
    """There is a whole bundle under the name at every moment, and the next build clears up an hour later."""
    tiny.build()
    first = "pass" if moment.startswith("before") else "exchange(*arguments)"
    code = KILLED.format(first=first, patched="gte_runtime.building.publish.exchange")
    done = subprocess.run(
        [sys.executable, "-c", code, tiny.checkpoint, tiny.graphs, tiny.bundle], check=False
    )
    assert done.returncode == -signal.SIGKILL
    with Embedder.open(tiny.bundle, threads=1) as gte:
        assert np.isfinite(vector_of(gte)).all()
    (left,) = tiny.bundle.parent.glob(".bundle.*")
    for path in (*left.rglob("*"), left):
        os.utime(path, (time.time() - 4000,) * 2)
    tiny.build(overwrite=True)
    assert [path.name for path in tiny.bundle.parent.iterdir()] == ["bundle"]


def test_a_build_that_is_going_on_is_not_cleared_up(tiny: Tiny):
    """However old its files are, as a copied checkpoint's or a stopped process's may be: its lock is held."""
    with gte_runtime.building.publish.staging(tiny.bundle) as directory:
        for path in (*directory.iterdir(), directory):
            os.utime(path, (time.time() - 4000,) * 2)
        tiny.build()
        assert directory.exists()
    assert not directory.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [".bundle.bak", ".bundle.2024", ".bundle.link"])
def test_directories_of_the_users_are_never_removed(tiny: Tiny, name: str):
    """`gte build CHECKPOINT ~/config` left no `~/.config.bak`: only what a marker proves to be a build's is
    removed.
    """
    mine = tiny.bundle.parent / ("elsewhere" if name.endswith("link") else name)
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine", encoding="utf-8")
    if name.endswith("link"):
        (mine / gte_runtime.building.publish.MARKER).write_text(name)
        (tiny.bundle.parent / name).symlink_to(mine)
    for path in (*mine.iterdir(), mine):
        os.utime(path, (time.time() - 4000,) * 2)
    tiny.build()
    assert (mine / "thesis.tex").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("place", ["a directory of the user's", "the checkpoint itself"])
def test_overwrite_replaces_bundles_only(tiny: Tiny, place: str):
    """A directory without manifest is no bundle, and not ours to delete."""
    if place == "the checkpoint itself":
        tiny.bundle = tiny.checkpoint
    else:
        tiny.bundle.mkdir()
        (tiny.bundle / "thesis.tex").write_text("mine", encoding="utf-8")
    before = contents(tiny.bundle)
    with pytest.raises(OutputError):
        tiny.build(overwrite=True)
    assert contents(tiny.bundle) == before


@pytest.mark.slow
def test_whoever_is_first_stays(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    """Two processes build the same bundle at once: the second to finish leaves the first one's, and both
    succeed.
    """
    inner: list[Manifest] = []

    def prove(*arguments: Any) -> float:
        """Before the first build's proof, a whole second build."""
        monkeypatch.setattr(PROVE, real_prove)
        inner.append(tiny.build(keep_existing=True))
        inode.append(tiny.bundle.stat().st_ino)
        return real_prove(*arguments)

    inode: list[int] = []
    monkeypatch.setattr(PROVE, prove)
    outer = tiny.build(keep_existing=True)
    assert [outer] == inner
    assert [tiny.bundle.stat().st_ino] == inode
    assert [path.name for path in tiny.bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["bundle", "directory"])
def test_what_appears_in_the_meantime_is_not_touched(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, what: str):
    """Without --overwrite, what somebody else put there while we built stays."""

    def prove(*arguments: Any) -> float:
        monkeypatch.setattr(PROVE, real_prove)
        tiny.bundle.mkdir()
        (tiny.bundle / ("manifest.json" if what == "bundle" else "thesis.tex")).write_text(
            "theirs", encoding="utf-8"
        )
        return real_prove(*arguments)

    monkeypatch.setattr(PROVE, prove)
    with pytest.raises(OutputError):
        tiny.build()
    assert [file.read_text(encoding="utf-8") for file in tiny.bundle.iterdir()] == ["theirs"]


@pytest.mark.slow
def test_many_at_once(tiny: Tiny):
    """Threads that build the same bundle leave one, whole, and none fails."""
    gate, failures = threading.Barrier(3), []

    def one() -> None:
        gate.wait()
        try:
            tiny.build(keep_existing=True)
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in tiny.bundle.parent.iterdir()] == ["bundle"]
    with Embedder.open(tiny.bundle, threads=1, verify="always") as gte:
        assert gte.encode(TEXT).dense is not None


def test_keep_existing_does_not_keep_what_is_no_bundle(tiny: Tiny):
    """A directory without manifest is nobody's finished bundle."""
    tiny.bundle.mkdir()
    (tiny.bundle / "half").write_bytes(b"")
    tiny.refused(OutputError, "bundle is no bundle", "not replaced", keep_existing=True)
