"""The CUDA session as far as it can be tested without a GPU: its options, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden import Golden

from gte_runtime import Embedder
from gte_runtime.building.build import build
from gte_runtime.bundle.directory import Bundle
from gte_runtime.device.cuda import (
    CudaOptions,
    CudaSession,
    provider_options,
    session_entries,
)
from gte_runtime.errors import ConfigError, ProviderUnavailableError
from gte_runtime.machine.libraries import Library

WIDTH = 64


@pytest.fixture(scope="module")
def packed(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The golden checkpoint in cuda-fp16."""
    target = tmp_path_factory.mktemp("packed") / "bundle"
    build(golden.checkpoint, target, graphs=golden.graphs, variants=("cuda-fp16", "cpu-fp32"))
    return Bundle.open(target)


def test_provider_options():
    """Never TF32; memory as asked; CUDA graphs in latency mode only; no cuDNN where that can be said."""
    plain = provider_options(CudaOptions(), 0, (1, 31))
    assert plain == {
        "device_id": "0",
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cudnn": "0",
    }
    told = provider_options(CudaOptions(devices=(0, 2), memory=5 * 2**30, latency=True), 2, (1, 28))
    assert told == {
        "device_id": "2", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": "5368709120",
        "enable_cuda_graph": "1",
    }  # fmt: skip


def test_no_operator_of_a_packed_graph_may_run_on_the_cpu(packed: Bundle, tiny_bundle: Path):
    """ONNX Runtime would place it there without a word.

    Padded graphs have arithmetic on shapes that belongs there.
    """
    strict = "session.disable_cpu_ep_fallback"
    assert session_entries(packed.variant("cuda-fp16"))[strict] == "1"
    assert strict not in session_entries(Bundle.open(tiny_bundle).variant("portable-fp32"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": ()}, "devices"),
        ({"devices": (0, 0)}, "devices"),
        ({"devices": (-1,)}, "devices"),
        ({"devices": ("0",)}, "devices"),
        ({"memory": 0}, "gpu_mem_limit"),
        ({"memory": 2.5}, "gpu_mem_limit"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str):
    """Refused before anything is loaded."""
    with pytest.raises(ConfigError, match=words):
        CudaOptions(**options)


def cuda_session(bundle: Bundle, variant: str, **options: Any) -> CudaSession:
    record = bundle.variant(variant)
    return CudaSession(bundle.read(record.graph), bundle.directory, record, WIDTH, CudaOptions(**options))


def test_a_limit_below_the_weights(packed: Bundle):
    """ONNX Runtime would hold no limit at all then."""
    with pytest.raises(ConfigError, match=r"gpu_mem_limit is 1000 bytes; the weights alone take \d{6,}"):
        cuda_session(packed, "cuda-fp16", memory=1000)


def test_variants_and_providers_that_do_not_go_together(packed: Bundle):
    """Each is told what to name instead."""
    with pytest.raises(ConfigError, match=r"cpu-fp32\.onnx is for the CPU"):
        cuda_session(packed, "cpu-fp32")
    with pytest.raises(ConfigError, match="runs on NVIDIA GPUs only; pass provider='cuda'"):
        Embedder.open(packed.directory, variant="cuda-fp16")
    with pytest.raises(ConfigError, match="for provider='cuda'"):
        Embedder.open(packed.directory, latency=True)
    with pytest.raises(ConfigError, match="gte engine build"):
        Embedder.open(packed.directory, provider="tensorrt", latency=True, variant="cpu-fp32")


def test_latency_needs_a_packed_graph(tiny_bundle: Path):
    """A padded graph has parts on the CPU, which a CUDA graph cannot hold."""
    with pytest.raises(ConfigError, match="latency=True needs the variant cuda-fp16"):
        cuda_session(Bundle.open(tiny_bundle), "portable-fp16", latency=True)


def test_cuda_without_its_package(packed: Bundle):
    """Asked for CUDA on the CPU package: an error with the pip line, never a CPU run."""
    with pytest.raises(ProviderUnavailableError, match=r"pip install 'gte-runtime\[gpu\]'") as caught:
        Embedder.open(packed.directory, provider="cuda")
    assert "cuda" not in caught.value.available


def test_a_library_that_is_missing_is_named(packed: Bundle, monkeypatch: pytest.MonkeyPatch):
    """Compiled in, and does not load: which library, and what to install."""
    import gte_runtime.device.cuda

    monkeypatch.setattr(gte_runtime.device.cuda, "require_provider", lambda provider: "CUDAExecutionProvider")
    found = [Library("libcublasLt.so.13", None), Library("libcudart.so.13", "libcudart.so.13")]
    monkeypatch.setattr(gte_runtime.device.cuda, "preload", lambda provider: found)
    with pytest.raises(
        ProviderUnavailableError,
        match=r"libcublasLt\.so\.13 is not found: pip install 'nvidia-cublas>=13,<14'",
    ):
        Embedder.open(packed.directory, provider="cuda")


def test_cuda_fp16_is_what_cuda_runs():
    """Where the bundle has it; the padded variants are second."""
    from gte_runtime.opening import VARIANTS

    assert VARIANTS["cuda"][0] == "cuda-fp16"
    assert VARIANTS["tensorrt"] == ("portable-fp16",)
