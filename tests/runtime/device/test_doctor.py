"""`gte doctor`: what it finds here, and its verdict on machines that are described to it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from gte_runtime.bundle.directory import Bundle
from gte_runtime.cli import gte
from gte_runtime.device.doctor import Findings, examine, lines, placement, verdict
from gte_runtime.machine.gpus import Devices, Gpu
from gte_runtime.machine.libraries import Library

GPU = Gpu(0, "NVIDIA H200", "9.0", 150 * 2**30)


CUDA = ("libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudart.so.13", "libcuda.so.1")


TRT = ("libnvinfer.so.10", "libcudnn.so.9")


def found_all(names: tuple[str, ...]) -> tuple[Library, ...]:
    return tuple(Library(name, name) for name in names)


GOOD = Findings(
    python="3.11.7", system="Linux x86_64", cpu="a processor", features=("avx2",), threads=2, quota=1.5,
    memory_limit=2**30,
    packages={"gte-runtime": "0.1.0", "onnxruntime-gpu": "1.31.1"}, providers=("tensorrt", "cuda", "cpu"),
    broken=None,
    libraries={"cuda": found_all(CUDA), "tensorrt": found_all(TRT)},
    devices=Devices("580.95", "13.0", (GPU,)), tensorrt="10.16.1",
)  # fmt: skip


CPU_ONLY = replace(
    GOOD,
    packages={"onnxruntime": "1.32.0"},
    providers=("cpu",),
    libraries={},
    devices=Devices(None, None, (), "no driver"),
)


def without(provider: str, *names: str) -> Findings:
    libraries = tuple(
        replace(lib, found=None) if lib.name in names else lib for lib in GOOD.libraries[provider]
    )
    return replace(GOOD, libraries=GOOD.libraries | {provider: libraries})


@pytest.mark.parametrize(
    ("found", "provider", "good", "words"),
    [
        (GOOD, None, True, "cuda is ready on GPU 0 (NVIDIA H200)"),
        (GOOD, "tensorrt", True, "tensorrt is ready"),
        (GOOD, "cpu", True, "the CPU is ready with 2 threads"),
        (CPU_ONLY, None, True, "the CPU is ready"),
        (replace(CPU_ONLY, devices=GOOD.devices), None, True, "pip install 'gte-runtime[gpu]'"),
        (CPU_ONLY, "cuda", False, "pip uninstall -y onnxruntime && pip install 'gte-runtime[gpu]'"),
        (
            replace(GOOD, packages=GOOD.packages | CPU_ONLY.packages),
            None,
            False,
            "overwrite each other: pip uninstall",
        ),
        (
            replace(CPU_ONLY, packages={}, providers=()),
            None,
            False,
            "not installed: pip install 'gte-runtime[cpu]'",
        ),
        (
            replace(CPU_ONLY, providers=(), broken="ImportError: GLIBC"),
            None,
            False,
            "does not import (ImportError: GLIBC)",
        ),
        (
            without("cuda", "libcublasLt.so.13", "libcublas.so.13"),
            None,
            False,
            "pip install 'nvidia-cublas>=13,<14'",
        ),
        (
            without("cuda", "libcuda.so.1"),
            None,
            False,
            "install NVIDIA's driver (in a container: start it with --gpus all)",
        ),
        (without("tensorrt", "libnvinfer.so.10", "libcudnn.so.9"), None, True, "cuda is ready"),
        (
            without("tensorrt", "libnvinfer.so.10"),
            "tensorrt",
            False,
            "pip install 'tensorrt-cu13==10.16.1.11'",
        ),
        (
            replace(GOOD, devices=Devices("1", "13.0", (), "the driver finds no GPU")),
            None,
            False,
            "the driver finds no GPU",
        ),
        (
            replace(GOOD, devices=Devices("1", "13.0", (replace(GPU, capability="7.0"),))),
            None,
            False,
            "7.5 is the oldest",
        ),
    ],
)
def test_verdict(found: Findings, provider: str | None, good: bool, words: str):
    """One line: what is wrong and the command that mends it."""
    verdict_found, line = verdict(found, provider)
    assert (verdict_found, "\n" in line) == (good, False)
    assert words in line


def test_lines_name_every_library():
    """Found or missing, one by one, with driver, GPU, quota and TensorRT."""
    shown = [" ".join(line) for line in lines(without("cuda", "libcublas.so.13"))]
    for words in (
        "libcublas.so.13 MISSING", "libcuda.so.1 libcuda.so.1", "driver 580.95",
        "gpu 0 NVIDIA H200, compute capability 9.0, 150 GiB",
        "control group grants 1.5 processors (2 threads)", "1.0 GiB", "tensorrt 10.16.1",
        "onnxruntime-gpu 1.31.1",
    ):  # fmt: skip
        assert any(words in " ".join(line.split()) for line in shown), words


def test_this_machine():
    """The real one: whatever it has, everything is answered and there is a verdict."""
    found = examine()
    assert found.packages["onnxruntime"]
    assert "cpu" in found.providers
    assert found.threads >= 1
    assert verdict(found, "cpu")[0]


def test_the_command(mini_bundle: Path):
    """A verdict in the last line, nodes of every variant that can load here, and a reason for the others; as
    JSON, too.
    """
    shown = CliRunner().invoke(gte, ["doctor", str(mini_bundle), "--provider", "cpu"], standalone_mode=False)
    assert (shown.return_value, shown.exception) == (0, None)
    assert shown.output.splitlines()[-1].startswith("verdict     the CPU is ready")
    assert "cpu-fp32 on cpu: " in shown.output
    answer = CliRunner().invoke(gte, ["doctor", "--json", "--provider", "cuda"], standalone_mode=False)
    told = json.loads(answer.output)
    assert answer.return_value == 5
    assert not told["ready"]
    assert "pip install 'gte-runtime[gpu]'" in told["verdict"]


def test_placement_counts_nodes(mini_bundle: Path):
    """By provider; none elsewhere than on the one that was asked for."""
    bundle = Bundle.open(mini_bundle)
    variant = bundle.variant("cpu-fp32")
    placed = placement(bundle.read(variant.graph), mini_bundle, variant, "cpu")
    assert placed["nodes"]["CPUExecutionProvider"] > 20
    assert placed["elsewhere"] == {}


def test_it_works_without_onnxruntime(tmp_path: Path):
    """With nothing but this package and numpy it still answers, and says what to install."""
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from gte_runtime.device import doctor\n"
        "doctor._packages = lambda: {}\n"
        "found = doctor.examine(); print(found.providers, doctor.verdict(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "ONNX Runtime is not installed: pip install 'gte-runtime[cpu]'" in done.stdout, done.stderr
