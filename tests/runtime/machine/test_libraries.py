"""Libraries that ONNX Runtime's providers are linked with: which they are, where they are, which package has
them.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gte_runtime.machine.libraries import needed, preload, remedy


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not installed")
def test_linked_libraries_are_those_readelf_shows():
    """Of a real library: ONNX Runtime's own module."""
    spec = importlib.util.find_spec("numpy.linalg._umath_linalg")
    assert spec is not None
    assert spec.origin is not None
    shown = subprocess.run(["readelf", "-d", spec.origin], capture_output=True, text=True, check=True).stdout
    expected = [line.split("[")[1].rstrip("]") for line in shown.splitlines() if "(NEEDED)" in line]
    system = ("libdl.", "librt.", "libpthread.", "libstdc++.", "libm.", "libgcc_s.", "libc.", "ld-linux")
    assert needed(Path(spec.origin)) == [name for name in expected if not name.startswith(system)]
    assert len(expected) > len(needed(Path(spec.origin)))


def test_what_is_no_elf_file_needs_nothing(tmp_path: Path):
    """A text in place of a library."""
    (tmp_path / "lib.so").write_text("not a library")
    assert needed(tmp_path / "lib.so") == []


def test_libraries_are_looked_for_in_packages_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """First as the loader would, then below site-packages, where the loader does not look."""
    import gte_runtime.machine.libraries as module

    folder = tmp_path / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcublas.so.13").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(module, "provider_file", lambda provider: tmp_path)
    monkeypatch.setattr(
        module, "needed", lambda file: ["libcublas.so.13", "libcudart.so.13", "libcurand.so.10"]
    )
    tried: list[str] = []

    def load(name: str) -> object:
        tried.append(name)
        if name in ("libcublas.so.13", "libcurand.so.10"):
            raise OSError("cannot open shared object file")
        return object()

    found = preload("cuda", load)
    assert [lib.found for lib in found] == [str(folder / "libcublas.so.13"), "libcudart.so.13", None]
    assert tried == ["libcublas.so.13", str(folder / "libcublas.so.13"), "libcudart.so.13", "libcurand.so.10"]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["libcublas.so.12", "libcudnn.so.9"], "pip install 'nvidia-cublas-cu12' 'nvidia-cudnn-cu12'"),
        (["libcublasLt.so.13", "libcublas.so.13"], "pip install 'nvidia-cublas>=13,<14'"),
        (["libnvinfer.so.10", "libnvonnxparser.so.10"], "pip install 'tensorrt-cu13==10.16.1.11'"),
        (["libcuda.so.1"], "install NVIDIA's driver"),
    ],
)
def test_remedies(missing: list[str], words: str):
    """The package of a library, for its version of CUDA, once."""
    assert remedy(missing).startswith(words)
    assert remedy(missing).count("pip install") <= 1
