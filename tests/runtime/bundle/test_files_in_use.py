"""Files of a bundle that is in use: what was hashed is what is mapped, and a write to it is noticed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from spoil import TEXT, change_manifest, replace, vector_of

import gte_runtime.bundle.load
from gte_runtime import Embedder
from gte_runtime.bundle.directory import Bundle
from gte_runtime.device.cpu import CpuSession
from gte_runtime.errors import BundleCorruptError, BundleError, BundleVersionError

TABLE, WEIGHTS = "table-fp16.bin", "weights-fp32.bin"

TEXTS = [TEXT + " " + "word " * (20 * each) for each in range(6)]
"""Of several lengths, so that they run side by side."""


def _cut(file: Path) -> None:
    os.truncate(file, 4096)


def _zeros(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size // 2))


def _zeros_and_old_time(file: Path) -> None:
    status = file.stat()
    _zeros(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _longer(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


def _copied_over(file: Path) -> None:
    """As `cp` does: the file is cut off, then written."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


CHANGES = [_cut, _zeros, _zeros_and_old_time, _longer, _copied_over]


@pytest.mark.slow
@pytest.mark.parametrize("name", [TABLE, WEIGHTS])
@pytest.mark.parametrize("change", CHANGES)
def test_a_write_to_a_file_in_use(bundle_copy: Path, change: Callable[[Path], None], name: str):
    """No other vector and no SIGBUS, but an error that says which file, at this and every later call.

    In a process of its own, because a mapped file that is cut off kills the process that reads it.
    """
    code = f"""
import sys
from pathlib import Path
from gte_runtime import Embedder, GteError
import test_files_in_use as here
bundle = Path(sys.argv[1])
with Embedder.open(bundle, threads=1) as gte:
    gte.encode("zebra quokka")
    here.{change.__name__}(bundle / {name!r})
    for _ in range(2):
        try:
            print("a vector:", gte.encode("zebra quokka").dense[0, :3])
        except GteError as error:
            print(type(error).__name__, error)
"""
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle_copy)], env=here, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.startswith(f"BundleError {name} was written to while it was in use; open the bundle again")


def test_a_write_during_a_run(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch):
    """A result that was computed while the file changed is not given."""
    with Embedder.open(bundle_copy, threads=1) as gte:
        real = CpuSession._run_on

        def run_on(*arguments: object) -> object:
            outputs = real(*arguments)  # type: ignore[arg-type]
            _zeros(bundle_copy / TABLE)
            return outputs

        monkeypatch.setattr(CpuSession, "_run_on", run_on)
        with pytest.raises(BundleError, match=f"{TABLE} was written to while it was in use"):
            gte.encode(TEXT)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_what_does_not_change_the_content(
    bundle_copy: Path, tmp_path: Path, good_vector: NDArray[np.float32], threads: int
):
    """Other times, permissions and names of the files do no harm, and the engine goes on."""
    with Embedder.open(bundle_copy, threads=threads) as gte:
        for file in (bundle_copy / TABLE, bundle_copy / WEIGHTS):
            file.touch()
            np.testing.assert_array_equal(vector_of(gte), good_vector)
            file.chmod(0o600)
            os.link(file, tmp_path / file.name)
            file.write_bytes(file.read_bytes())
            np.testing.assert_array_equal(vector_of(gte), good_vector)


def test_a_bundle_replaced_as_a_whole(
    bundle_copy: Path, tiny_bundle: Path, tmp_path: Path, good_vector: NDArray[np.float32]
):
    """Another bundle takes its name, and the old one is removed: a running engine keeps the old files."""
    with Embedder.open(bundle_copy, threads=1) as gte:
        bundle_copy.rename(tmp_path / "old")
        shutil.copytree(tiny_bundle, bundle_copy)
        np.testing.assert_array_equal(vector_of(gte), good_vector)
        shutil.rmtree(tmp_path / "old")
        np.testing.assert_array_equal(vector_of(gte), good_vector)


@pytest.mark.slow
def test_the_second_session_has_the_weights_of_the_first(bundle_copy: Path, tmp_path: Path):
    """It is loaded when runs first go side by side; its files may have been moved by then, not exchanged."""
    with Embedder.open(bundle_copy, threads=2) as gte:
        expected = gte.encode(TEXTS).dense
    assert expected is not None
    with Embedder.open(bundle_copy, threads=2) as gte:
        bundle_copy.rename(tmp_path / "moved")
        other = bytes((tmp_path / "moved" / WEIGHTS).stat().st_size)
        shutil.copytree(tmp_path / "moved", bundle_copy)
        replace(bundle_copy, WEIGHTS, other)
        np.testing.assert_array_equal(gte.encode(TEXTS).dense, expected)
        assert isinstance(gte.engine.session, CpuSession)
        assert gte.engine.session._single is not None  # the second session was loaded, after the exchange
    with Embedder.open(tmp_path / "moved", threads=2) as gte:
        replace(tmp_path / "moved", WEIGHTS, other)
        with pytest.raises(BundleCorruptError, match=f"{WEIGHTS}: expected the file that was checked"):
            gte.encode(TEXTS)


def test_a_directory_exchanged_while_loading(
    bundle_copy: Path, tmp_path: Path, good_vector: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
):
    """Another directory has its name while ONNX Runtime opens weights: it opens those that were hashed."""
    evil = tmp_path / "evil"
    shutil.copytree(bundle_copy, evil)
    replace(evil, WEIGHTS, bytes((evil / WEIGHTS).stat().st_size))
    real = CpuSession

    def session(*arguments: object, **options: object) -> CpuSession:
        bundle_copy.rename(tmp_path / "aside")
        evil.rename(bundle_copy)
        try:
            return real(*arguments, **options)  # type: ignore[arg-type]
        finally:
            bundle_copy.rename(evil)
            (tmp_path / "aside").rename(bundle_copy)

    Bundle.open(bundle_copy)
    monkeypatch.setattr(gte_runtime.bundle.load, "CpuSession", session)
    with Embedder.open(bundle_copy, threads=1) as gte:
        np.testing.assert_array_equal(vector_of(gte), good_vector)


def test_a_directory_exchanged_where_there_is_no_proc(bundle_copy: Path, tmp_path: Path):
    """As on macOS, where ONNX Runtime gets the directory's path: that it leads elsewhere is noticed."""
    bundle = Bundle.open(bundle_copy)
    files = bundle.check(bundle.manifest.files_of("cpu-fp32"))
    files.directory = bundle_copy
    files.check_names()
    bundle_copy.rename(tmp_path / "aside")
    shutil.copytree(tmp_path / "aside", bundle_copy)
    with pytest.raises(BundleCorruptError, match="expected the file that was checked, found another one"):
        files.check_names()


def test_descriptors_are_given_back(bundle_copy: Path):
    """A running engine holds the directory and its weight files; a closed or failed one holds nothing."""
    process = psutil.Process()
    Embedder.open(bundle_copy, threads=1).close()
    before = process.num_fds()
    gte = Embedder.open(bundle_copy, threads=1)
    assert process.num_fds() == before + 3
    gte.close()
    assert process.num_fds() == before
    change_manifest(bundle_copy, lambda raw: raw["variants"]["cpu-fp32"].update(min_onnxruntime="99.0"))
    with pytest.raises(BundleVersionError) as late:
        Embedder.open(bundle_copy, threads=1)
    assert process.num_fds() == before
    (bundle_copy / WEIGHTS).unlink()
    with pytest.raises(BundleCorruptError) as early:
        Embedder.open(bundle_copy, threads=1)
    assert process.num_fds() == before
    for kept in (early, late):
        assert kept.value.__traceback__ is not None  # which keeps the frames of the opening
