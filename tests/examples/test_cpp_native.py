"""The portable graph without Python: built with ONNX Runtime's C++ headers, where there are any, and run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from golden import Golden

from gte_runtime import Embedder

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "cpp_native"
FETCHED = REPOSITORY / ".ort" / "include"
PLACES: list[str | Path] = [
    os.environ.get("ORT_INCLUDE", ""),
    FETCHED,
    "/usr/include/onnxruntime",
    "/usr/local/include/onnxruntime",
]


def headers() -> Path | None:
    """Where they are; fetched once with the example's own script (150 MB, ten seconds) where they are
    nowhere.
    """
    if (found := _installed()) is None and shutil.which("npm"):
        subprocess.run(["sh", EXAMPLE / "headers.sh", FETCHED], capture_output=True, timeout=300, check=False)
        found = _installed()
    return found


def _installed() -> Path | None:
    return next(
        (Path(place) for place in PLACES if place and (Path(place) / "onnxruntime_cxx_api.h").exists()), None
    )


def library() -> Path | None:
    """The shared library inside the wheel; wheels have it since 1.31 or so."""
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return next(iter(sorted((Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*"))), None)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("cmake or a C++ compiler is missing")
    if (include := headers()) is None:
        pytest.skip("no ONNX Runtime headers, and no npm or no registry to fetch them from; set ORT_INCLUDE")
    if (shared := library()) is None:
        pytest.skip("this onnxruntime wheel has no libonnxruntime.so")
    build = tmp_path_factory.mktemp("cpp-native")
    for step in (
        [
            "cmake",
            "-S",
            EXAMPLE,
            "-B",
            build,
            f"-DORT_INCLUDE={include}",
            f"-DORT_LIBRARY={shared}",
            "-DCMAKE_BUILD_TYPE=Debug",
        ],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(
            [str(word) for word in step], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stdout + done.stderr
    return build / "gte_native"


def test_same_vectors_as_the_runtime(program: Path, tiny_bundle: Path, golden: Golden, tmp_path: Path):
    """Dense rows, cut rows and sparse entries of all golden texts, from ids alone."""
    with Embedder.open(tiny_bundle, variant="portable-fp32") as gte:
        graph = tiny_bundle / gte.engine.variant.graph
        whole, cut = gte.encode(golden.texts), gte.encode(golden.texts, dim=32)
        lines = [" ".join(str(token) for token, _ in gte.tokenize(text)) for text in golden.texts]
    for dim, expected in ((64, whole), (32, cut)):
        done = subprocess.run(
            [program, graph, tmp_path / "out", str(dim)],
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert expected.dense is not None
        found = np.fromfile(tmp_path / "out", np.float32).reshape(len(golden.texts), dim)
        assert np.abs(found - expected.dense).max() <= 1e-6
        assert expected.sparse is not None
        for line, vector in zip(done.stdout.splitlines(), expected.sparse, strict=True):
            entries = dict(pair.split(":") for pair in line.split())
            assert [int(token) for token in entries] == vector.indices.tolist()
            assert [float(weight) for weight in entries.values()] == pytest.approx(
                vector.values.tolist(), rel=1e-4
            )


def test_failures_are_told(program: Path, tmp_path: Path):
    """A graph that is not there: one line, exit code 1."""
    done = subprocess.run(
        [program, tmp_path / "none.onnx", tmp_path / "out"],
        input="0 2\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("gte_native: ")
