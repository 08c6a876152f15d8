"""ONNX Runtime as a library: what it reports, prints and raises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gte_runtime.device.runtime import NO_TELEMETRY


@pytest.mark.slow
@pytest.mark.parametrize("imported_before", [False, True])
def test_nothing_is_reported(tiny_bundle: Path, tmp_path: Path, imported_before: bool):
    """ONNX Runtime's own reports stay off: it keeps no number of the machine, and queues no event."""
    code = f"from gte_runtime import Embedder; Embedder.open({str(tiny_bundle)!r}).encode('dog')"
    environment = {
        name: value for name, value in os.environ.items() if name not in (NO_TELEMETRY, "XDG_CACHE_HOME")
    }
    environment |= {"HOME": str(tmp_path)}
    if imported_before:
        code = "import onnxruntime; " + code
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=120, check=True)
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    if not imported_before:
        assert kept == []
    for queue in (file for file in kept if ".db" in file.name):
        assert b"modelGraphName" not in queue.read_bytes()


@pytest.mark.slow
def test_a_signal_while_it_is_imported(tiny_bundle: Path):
    """The exit is the signal's, and a program that goes on can open a bundle: the import was not cut off."""
    code = """
import signal, sys
from gte_runtime import Embedder
from gte_runtime.device.runtime import runtime
def fire(*_): raise SystemExit(143)
signal.signal(signal.SIGALRM, fire)
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
try:
    runtime()
except SystemExit as error:
    signal.setitimer(signal.ITIMER_REAL, 0)
    Embedder.open(sys.argv[2]).encode("dog")
    sys.exit(error.code)
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    codes = []
    for step in range(1, 13):
        command = [sys.executable, "-c", code, f"{step * 0.012:.3f}", str(tiny_bundle)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (0, 143), done.stderr
        codes.append(done.returncode)
    assert 143 in codes


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("raise ImportError('libfoo.so.1: cannot open shared object file')", "libfoo.so.1: cannot open"),
        ("import numpy.absent", "numpy.absent"),
        (None, "install ONNX Runtime: pip install 'gte-runtime[cpu]'"),
    ],
    ids=["library", "module", "absent"],
)
def test_broken_and_absent(tmp_path: Path, module: str | None, words: str):
    """Only an installation that is not there is told to be installed; a broken one is told by what is
    wrong."""
    if module is None:
        code = "import sys; sys.modules['onnxruntime'] = None\n"
    else:
        (tmp_path / "onnxruntime.py").write_text(module)
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += """
from gte_runtime.device.runtime import runtime
from gte_runtime.errors import ProviderUnavailableError
try:
    runtime()
except ProviderUnavailableError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert words in done.stdout
    assert ("install ONNX Runtime:" in done.stdout) == (module is None)
    assert str(tmp_path) not in done.stdout
