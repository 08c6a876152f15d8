"""ONNX Runtime's own CUDA provider, the real one, on a CUDA that has no GPU (cuda.c): all but the numbers.

Run by `make test-stand-in`. What is checked is what ONNX Runtime does on the host: where it places nodes,
which kernels it would start, what it captures, what it says without memory, devices or libraries.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from golden import Golden

from gte_runtime.building.build import build
from gte_runtime.format.layout import Layout

HERE = Path(__file__).parent
BASE = HERE.parents[1] / "models" / "gte-multilingual-base"
LIBRARIES = {
    "libcudart.so.13": "cuda*; __cuda*;",
    "libcublas.so.13": "cublas*;",
    "libcublasLt.so.13": "cublasLt*;",
    "libcurand.so.10": None,
    "libcuda.so.1": None,
}
"""With the symbols that carry the library's name as their version."""

PRELUDE = """
import json, os, sys
import numpy as np
from pathlib import Path
from gte_runtime.bundle.directory import Bundle
from gte_runtime.device.cuda import CudaOptions, CudaSession
from gte_runtime.errors import GteError
from gte_runtime.format.manifest import STATES, Variant
from gte_runtime.inference.batch import make_batch

def say(*words):
    with open(os.environ["STAND_IN_LOG"], "a") as file: print("==", *words, file=file)

def texts(count, length):
    return make_batch(np.arange(count), [np.full(length, 5, np.int64)] * count, 128)

def open_base(folder, **options):
    variant = Variant(graph="cuda-fp16.onnx", weights=("table-fp16.bin", "packed-fp16.bin"), batch="packed",
                      inputs=("input_ids", "position_ids", "cu_seqlens", "token_offset"), outputs=STATES,
                      min_onnxruntime="1.27", tolerance=.01, flash_from=128)
    graph = (Path(folder) / "cuda-fp16.onnx").read_bytes()
    return CudaSession(graph, Path(folder), variant, 768, CudaOptions(**options))
"""


def _missing() -> str | None:
    try:
        if tuple(int(part) for part in metadata.version("onnxruntime-gpu").split(".")[:2]) < (1, 27):
            return "the stand-in is CUDA 13's, which onnxruntime-gpu is linked with since 1.27"
    except metadata.PackageNotFoundError:
        return "onnxruntime-gpu is not installed"
    return None if shutil.which("gcc") else "there is no gcc to compile the stand-in with"


pytestmark = [pytest.mark.stand_in, pytest.mark.skipif(_missing() is not None, reason=str(_missing()))]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, compiled once for each library that the provider is linked with."""
    folder = tmp_path_factory.mktemp("libraries")
    for name, symbols in LIBRARIES.items():
        command = [
            "gcc",
            "-shared",
            "-fPIC",
            "-w",
            "-O1",
            "-o",
            str(folder / name),
            str(HERE / "cuda.c"),
            f"-Wl,-soname,{name}",
        ]
        if symbols:
            (folder / "versions").write_text(f"{name} {{ global: {symbols} }};")
            command.append(f"-Wl,--version-script={folder / 'versions'}")
        subprocess.run(command, check=True)
    (folder / "versions").unlink()
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of gte-multilingual-base with weights that are holes in files: zeros that take no disk."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "cuda-fp16.onnx").write_bytes((BASE / "cuda-fp16.table-fp16.onnx").read_bytes())
    for name in ("table-fp16", "packed-fp16"):
        layout = Layout.from_json((BASE / f"{name}.layout.json").read_text(encoding="utf-8"))
        with (folder / f"{name}.bin").open("wb") as file:
            file.truncate(layout.size)
    return folder


@pytest.fixture(scope="module")
def tiny(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tiny") / "bundle"
    build(
        golden.checkpoint,
        target,
        graphs=golden.graphs,
        variants=("cuda-fp16", "portable-fp16", "portable-fp32"),
    )
    return target


@pytest.fixture
def on_gpu(libraries: Path, tmp_path: Path) -> Any:
    """Runs code with the stand-in in place; gives its last line as JSON, and the log as (section, what,
    detail).
    """

    def run(
        code: str, *arguments: object, with_libraries: bool = True, **environment: object
    ) -> tuple[Any, list[tuple[str, str, str]]]:
        log = tmp_path / "log"
        log.touch()
        settings = {
            **os.environ,
            "STAND_IN_LOG": str(log),
            **{name: str(value) for name, value in environment.items()},
        }
        if with_libraries:
            settings["LD_LIBRARY_PATH"] = str(libraries)
        command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stderr == ""
        section, lines = "", []
        for line in log.read_text().splitlines():
            what, _, detail = line.partition(" ")
            if what == "==":
                section = detail
            lines.append((section, what, detail))
        return json.loads(done.stdout.splitlines()[-1]), lines

    return run


def short(kernel: str) -> str:
    """What a mangled name stands for."""
    names = (
        *("flash_fwd_kernel", "SkipLayerNorm", "biasSplitGelu", "RotaryEmbedding", "OP_Add"),
        *("OP_Cast", "OP_Relu", "Gather", "cuApplyLayerNorm"),
    )
    return next((name for name in names if name in kernel), kernel)


def test_every_node_has_its_kernel_and_a_layer_has_fourteen(on_gpu: Any, base: Path):
    """FlashAttention for every length, no extra product for a bias, no copy between host and device.

    14 kernels in each layer.

    The session opens with the CPU forbidden, so every node was placed on CUDA.
    """
    code = """
session = open_base(sys.argv[1])
for count, length in ((1, 16), (32, 512), (4, 8192)):
    say(f"{count}x{length}"); session.run(texts(count, length)); say("end")
session.close(); print(json.dumps(True))
"""
    _, log = on_gpu(code, base, STAND_IN_MEMORY=20 * 10**9)
    for section in ("1x16", "32x512", "4x8192"):
        started = Counter(
            short(d) if w == "kernel" else d.split()[0]
            for s, w, d in log
            if s == section and w in ("kernel", "product")
        )
        layers = {
            "GemmEx": 6,
            "OP_Add": 2,
            "RotaryEmbedding": 2,
            "flash_fwd_kernel": 1,
            "SkipLayerNorm": 2,
            "biasSplitGelu": 1,
        }
        # One Add more with weights that are not zero: ONNX Runtime takes out the head's bias of 0.
        outside = {"GemmEx": 1, "OP_Add": 1, "OP_Cast": 2, "OP_Relu": 1, "Gather": 2, "cuApplyLayerNorm": 1}
        assert sum(layers.values()) == 14
        expected = Counter({name: 12 * count for name, count in layers.items()}) + Counter(outside)
        assert started == expected, section


def test_latency_mode_captures_and_replays(on_gpu: Any, base: Path):
    """Six graphs at the start; then small requests are one launch each, larger ones run kernel by kernel."""
    code = """
say("open"); session = open_base(sys.argv[1], latency=True); say("small")
for length in (5, 16, 100, 500): session.run(texts(1, length))
say("large"); session.run(texts(1, 600)); say("end")
print(json.dumps(session.report())); session.close()
"""
    report, log = on_gpu(code, base)
    count = Counter((section, what) for section, what, _ in log)
    assert count["open", "capture"] == len(report["shapes"]) == 6
    assert report["milliseconds"] > 0
    assert count["small", "replay"] == 4
    assert (count["small", "kernel"], count["small", "product"], count["small", "capture"]) == (0, 0, 0)
    assert (count["large", "replay"], count["large", "capture"]) == (0, 0)
    assert count["large", "kernel"] > 100
    assert not [detail for _, what, detail in log if what in ("error", "never")]


def test_without_memory_the_batch_is_halved_and_the_session_survives(on_gpu: Any, base: Path):
    """A device too small for the batch: ONNX Runtime's allocation really fails, halves that fit run, and so
    does what follows.
    """
    code = """
session = open_base(sys.argv[1])
lane, asked = session._lanes[0], []
def spy(batch, owner, thrifty, inner=lane.run, **more):
    asked.append([len(batch.input_ids), thrifty]); return inner(batch, owner, thrifty, **more)
lane.run = spy
shapes = [session.run(texts(count, 512)).cls.shape for count in (8, 24, 8)]
try: session.run(texts(64, 512)); last = "ran"
except GteError as error: last = type(error).__name__
shapes.append(session.run(texts(1, 16)).cls.shape)
print(json.dumps([shapes, asked, last])); session.close()
"""
    (shapes, asked, last), _ = on_gpu(code, base, STAND_IN_MEMORY=900_000_000)
    assert shapes == [[8, 768], [24, 768], [8, 768], [1, 768]]
    assert [24 * 512, False] in asked
    assert asked.count([12 * 512, True]) == 2
    assert last == "ran"


def test_the_limit_of_memory_is_kept(on_gpu: Any, base: Path):
    """gpu_mem_limit counts weights and is kept; below the weights it would not be, so that is refused."""
    code = """
def outcome(limit):
    try:
        session = open_base(sys.argv[1], memory=limit)
        lane = session._lanes[0]; inner = lane.run
        lane.run = lambda batch, owner, thrifty, **more: inner(batch, owner, False, **more)
        session.run(texts(1, 8192)); session.close(); return "ran"
    except GteError as error: return type(error).__name__
print(json.dumps([outcome(limit) for limit in (2_000_000_000, 700_000_000, 400_000_000)]))
"""
    outcomes, _ = on_gpu(code, base)
    assert outcomes == ["ran", "OutOfMemory", "ConfigError"]


def test_ragged_shapes_reach_a_plateau(on_gpu: Any, base: Path):
    """200 random batches: the device's memory stops growing. 2,000 on a real GPU: tests/gpu."""
    code = """
import ctypes
session = open_base(sys.argv[1]); driver = ctypes.CDLL("libcudart.so.13"); rng = np.random.default_rng(0)
def used():
    left, total = ctypes.c_size_t(), ctypes.c_size_t()
    driver.cudaMemGetInfo(ctypes.byref(left), ctypes.byref(total)); return total.value - left.value
peaks = []
for _ in range(200):
    lengths = np.clip(rng.lognormal(4.5, 1, rng.integers(1, 40)), 2, 2000).astype(int)
    session.run(make_batch(np.arange(len(lengths)), [np.full(n, 5) for n in lengths], 128))
    peaks.append(used())
print(json.dumps(peaks)); session.close()
"""
    peaks, _ = on_gpu(code, base, STAND_IN_MEMORY=20 * 10**9)
    assert max(peaks[100:]) <= 1.1 * max(peaks[:100])


def test_two_gpus_share_the_work(on_gpu: Any, tiny: Path):
    """One session on each, both used when several callers ask at a time."""
    code = """
from concurrent.futures import ThreadPoolExecutor
bundle = Bundle.open(Path(sys.argv[1])); variant = bundle.variant("cuda-fp16")
session = CudaSession(bundle.read(variant.graph), bundle.directory, variant, 64, CudaOptions(devices=(0, 1)))
used = [0, 0]
for number, lane in enumerate(session._lanes):
    def spy(*given, inner=lane.run, number=number, **more): used[number] += 1; return inner(*given, **more)
    lane.run = spy
with ThreadPoolExecutor(8) as pool: list(pool.map(lambda _: session.run(texts(4, 60)), range(64)))
print(json.dumps([session.workers, used])); session.close()
"""
    (workers, used), _ = on_gpu(code, tiny, STAND_IN_DEVICES=2)
    assert workers == 2
    assert sum(used) == 64
    assert min(used) > 0


@pytest.mark.parametrize("variant", ["portable-fp16", "portable-fp32"])
def test_padded_variants_run_on_cuda_without_tf32(on_gpu: Any, tiny: Path, variant: str):
    """And ONNX Runtime says that TF32 is off."""
    code = """
import gte_runtime.device.cuda as cuda
bundle = Bundle.open(Path(sys.argv[1])); variant = bundle.variant(sys.argv[2])
inner, kept = cuda._load, []
cuda._load = lambda *given: kept.append(inner(*given)) or kept[0]
session = CudaSession(bundle.read(variant.graph), bundle.directory, variant, 64)
shape = session.run(texts(3, 20)).cls.shape
told = kept[0].get_provider_options()["CUDAExecutionProvider"]
print(json.dumps([shape, told["use_tf32"], told["enable_cudnn"], told["arena_extend_strategy"]]))
session.close()
"""
    answer, _ = on_gpu(code, tiny, variant)
    assert answer == [[3, 64], "0", "0", "kSameAsRequested"]


OPEN = """
def reason(**options):
    bundle = Bundle.open(Path(sys.argv[1])); variant = bundle.variant("cuda-fp16")
    graph = bundle.read(variant.graph)
    try: CudaSession(graph, bundle.directory, variant, 64,
        CudaOptions(**options)).close(); return ["opened", ""]
    except GteError as error: return [type(error).__name__, str(error)]
"""


def test_a_gpu_that_is_not_there(on_gpu: Any, tiny: Path):
    """No GPU at all, or none of that number: said in our words, without the machine's name."""
    (kind, words), _ = on_gpu(OPEN + "print(json.dumps(reason()))", tiny, STAND_IN_DEVICES=0)
    assert kind == "ProviderUnavailableError"
    assert "no CUDA-capable device is detected; `gte doctor`" in words
    assert "hostname" not in words
    (kind, words), _ = on_gpu(OPEN + "print(json.dumps(reason(devices=(3,))))", tiny)
    assert kind == "ProviderUnavailableError"
    assert "Invalid device ID: 3" in words


def _has(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


@pytest.mark.skipif(_has("libcublasLt.so.13"), reason="this machine has CUDA 13 itself")
def test_a_library_that_is_not_there(on_gpu: Any, tiny: Path):
    """The real onnxruntime-gpu on a machine without CUDA: the libraries by name, and the command."""
    (kind, words), _ = on_gpu(OPEN + "print(json.dumps(reason()))", tiny, with_libraries=False)
    assert kind == "ProviderUnavailableError"
    assert "libcublasLt.so.13, libcublas.so.13" in words
    assert "pip install 'nvidia-cublas>=13,<14'" in words


def test_doctor_sees_the_stand_in(on_gpu: Any, tiny: Path):
    """Libraries, driver, GPU, and every node of cuda-fp16 on CUDA."""
    code = """
from gte_runtime.device import doctor
bundle = Bundle.open(Path(sys.argv[1])); variant = bundle.variant("cuda-fp16")
found = doctor.examine()
placed = doctor.placement(bundle.read(variant.graph), bundle.directory, variant, "cuda")
print(json.dumps([doctor.verdict(found), placed, [gpu.name for gpu in found.devices.gpus]]))
"""
    ((good, line), placed, gpus), _ = on_gpu(code, tiny)
    assert (good, line, gpus) == (True, "cuda is ready on GPU 0 (stand-in)", ["stand-in"])
    assert set(placed["nodes"]) == {"CUDAExecutionProvider"}


def test_tensorrt_options_are_known_to_the_provider():
    """Each option's name occurs in the provider's library: all that can be checked without TensorRT."""
    from gte_runtime.device.tensorrt import Profile, build_options
    from gte_runtime.machine.libraries import provider_file

    file = provider_file("tensorrt")
    assert file is not None
    data = file.read_bytes()
    for name in build_options(Profile(longest=32, texts=8), 0, Path("c"), Path("t")):
        assert name.encode() + b"\0" in data, name
