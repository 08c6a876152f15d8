"""The C++ host: built with CMake against this environment's Python, and run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from gte_runtime import Embedder

HERE = Path(__file__).parent
THREADS = 8
ROUNDS = 5
GROWTH_MB = 4.0
"""What 3 rounds of 500 texts may add to the memory of a process once two rounds have warmed it up."""


def _missing() -> str | None:
    if not shutil.which("cmake"):
        return "cmake is not installed"
    if not shutil.which("c++"):
        return "no C++ compiler"
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return "this Python has no shared library"
    if not importlib.util.find_spec("pybind11"):
        return "pybind11 is not installed"
    return None


pytestmark = pytest.mark.skipif(_missing() is not None, reason=_missing() or "")


def _run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=0",
    }  # Python keeps what it allocated to its end
    words = [str(word) for word in command]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=300, check=False, env=environment, **options
    )  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example and the programs that look at it, with AddressSanitizer if the compiler has it."""
    folder = tmp_path_factory.mktemp("cpp-host")
    probe = folder / "probe.cpp"
    probe.write_text("int main() {}")
    sanitize = _run("c++", "-fsanitize=address", probe, "-o", folder / "probe").returncode == 0
    options = [
        f"-DSANITIZE={'ON' if sanitize else 'OFF'}",
        "-DCMAKE_BUILD_TYPE=Debug",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    for step in (
        ["cmake", "-S", HERE / "host", "-B", folder / "build", *options],
        ["cmake", "--build", folder / "build", "-j2"],
    ):
        done = _run(*step)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stdout + done.stderr
    return folder / "build"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """500 short texts, no two alike."""
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "北京",
        "capital",
        "of",
        "China",
        "sorts",
        "slowly",
        "über",
        "die",
        "Brücke",
        "и",
        "снова",
    ]
    rng = np.random.default_rng(0)
    texts = [
        " ".join([*rng.choice(words, size=int(rng.integers(1, 12))), str(number)]) for number in range(500)
    ]
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path, texts


def test_threads_get_pythons_own_bits(
    built: Path, tiny_bundle: Path, lines: tuple[Path, list[str]], tmp_path: Path
):
    """Eight C++ threads at once: every vector is the one that Python gives, bit for bit, and memory does not
    grow.
    """
    path, texts = lines
    with path.open() as source:
        done = _run(
            built / "cpp_host/gte_host",
            sys.executable,
            tiny_bundle,
            THREADS,
            tmp_path / "out",
            ROUNDS,
            stdin=source,
        )
    assert done.returncode == 0, done.stderr
    found = np.fromfile(tmp_path / "out", np.float32).reshape(len(texts), -1)
    with Embedder.open(tiny_bundle) as gte:
        expected = gte.encode(texts).dense
    assert np.array_equal(found, expected)
    memory = [float(mb) for mb in re.findall(r"([\d.]+) MB resident", done.stderr)]
    assert len(memory) == ROUNDS
    assert memory[-1] - memory[1] < GROWTH_MB
    assert done.stdout == ""


def test_promises_to_a_host(built: Path, tiny_bundle: Path):
    """Errors as C++ exceptions, no copies, fork, results that outlive Python, signals and environment left
    alone, a clean end.
    """
    done = _run(built / "checks", sys.executable, tiny_bundle)
    assert done.stderr == ""
    assert done.stdout == "all fine\n"
    assert done.returncode == 0


def test_python_started_again(built: Path):
    """A host that ends Python and starts it again is told why that does not work."""
    done = _run(built / "again", sys.executable)
    first, second = done.stdout.splitlines()
    assert first == "imported"
    assert second.startswith("InterpreterError: Python was ended and started again in this process")


def test_a_failure_is_one_line(built: Path, tmp_path: Path):
    """An unknown model, a Python without the package: class and message of the error, exit code 1, no
    traceback.
    """
    for python, error in (
        (sys.executable, "BundleError: "),
        ("/nonexistent/python", "ModuleNotFoundError: No module named 'gte_runtime'"),
    ):
        done = _run(
            built / "cpp_host/gte_host",
            python,
            tmp_path / "nothing",
            1,
            tmp_path / "out",
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 1
        assert done.stderr.startswith(f"gte_host: {error}")
        assert len(done.stderr.splitlines()) == 1
