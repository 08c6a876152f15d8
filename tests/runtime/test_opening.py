"""What `open` chooses, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gte_runtime import Embedder
from gte_runtime.bundle.directory import Bundle
from gte_runtime.errors import (
    BundleError,
    ConfigError,
    ProviderError,
    ProviderUnavailableError,
)
from gte_runtime.inference.cost import COSTS, Cost
from gte_runtime.opening import open_model, preferred


@pytest.fixture(scope="module")
def gte(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle) as engine:
        yield engine


def test_unknown_options(gte: Embedder, tiny_bundle: Path):
    """Unknown values are refused with what there is."""
    with pytest.raises(ConfigError, match="'strict' or 'replace'"):
        gte.encode("a", errors="ignore")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="cpu, cuda, tensorrt"):
        Embedder.open(tiny_bundle, provider="tpu")
    with pytest.raises(ConfigError, match="'auto' or 'always'"):
        Embedder.open(tiny_bundle, verify="never")  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="no variant 'cpu-int3'; it has cpu-fp32"):
        Embedder.open(tiny_bundle, variant="cpu-int3")
    with pytest.raises(ConfigError, match="threads is 0"):
        Embedder.open(tiny_bundle, threads=0)


def test_no_silent_cpu(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]):
    """A provider that is not there is an error that names what is, and nothing is printed."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine's onnxruntime has CUDA; the error for its absence cannot be seen here")
    with pytest.raises(ProviderUnavailableError, match="cpu") as caught:
        Embedder.open(tiny_bundle, provider="cuda")
    assert isinstance(caught.value, ProviderError)
    assert caught.value.asked == "cuda"
    assert "gte-runtime[gpu]" in str(caught.value)
    assert capfd.readouterr().out == ""


def test_names_that_do_not_exist():
    """An unknown name says what would be known, and how to make a bundle."""
    with pytest.raises(BundleError, match=r"gte-mini.*gte build"):
        Embedder.open("no-such-model")


@pytest.mark.parametrize(
    ("provider", "variants", "chosen"),
    [
        ("cpu", ("portable-fp32", "cpu-int8", "cpu-fp32"), "cpu-fp32"),
        ("cpu", ("portable-fp32", "cpu-int8"), "cpu-int8"),
        ("cpu", ("portable-fp32", "portable-fp16"), "portable-fp32"),
        ("cuda", ("portable-fp16", "cpu-fp32"), "portable-fp16"),
        ("tensorrt", ("portable-fp16", "portable-fp32"), "portable-fp16"),
    ],
)
def test_the_preferred_variant(tiny_bundle: Path, provider: str, variants: tuple[str, ...], chosen: str):
    """Where none is named, the best of those that the bundle has."""
    assert preferred(with_variants(tiny_bundle, variants), provider) == chosen


def test_no_variant_for_a_provider(tiny_bundle: Path):
    """Which there are, and which would do."""
    with pytest.raises(
        ConfigError, match=r"no variant for provider 'tensorrt' \(it has cpu-fp32\).*portable-fp16"
    ):
        preferred(with_variants(tiny_bundle, ("cpu-fp32",)), "tensorrt")


def with_variants(directory: Path, variants: tuple[str, ...]) -> Bundle:
    bundle = Bundle.open(directory)
    kept = {name: bundle.manifest.variants[name] for name in variants}
    bundle.manifest = replace(bundle.manifest, variants=kept)
    return bundle


def test_the_other_kind(tiny_bundle: Path, reranker_bundle: Path):
    """A bundle says what it is, and which class opens it."""
    with pytest.raises(ConfigError, match=r"use Embedder\.open"):
        open_model(tiny_bundle, reranker=True)
    with pytest.raises(ConfigError, match=r"use Reranker\.open"):
        open_model(reranker_bundle, reranker=False)


@pytest.mark.parametrize("options", [{"latency": True}, {"devices": (1,)}, {"gpu_mem_limit": 2**30}])
def test_options_of_gpus(tiny_bundle: Path, options: dict[str, Any]):
    """On a CPU they would have no effect, so they are refused."""
    with pytest.raises(ConfigError, match="are for provider='cuda'"):
        open_model(tiny_bundle, reranker=False, **options)


def test_what_is_opened(tiny_bundle: Path):
    """Manifest, tokenizer, an engine with the costs of its variant, and facts for people."""
    for variant in ("cpu-fp32", "cpu-int8"):
        opened = open_model(tiny_bundle, reranker=False, variant=variant, threads=1)
        assert opened.manifest.model == opened.info["model"] == "gte-tiny-random"
        assert opened.info["variant"] == variant
        assert (opened.info["provider"], opened.info["threads"]) == ("cpu", 1)
        assert opened.engine.cost == COSTS.get(variant, Cost())
        assert opened.engine.workers == 1
        assert opened.engine.width == 64
        opened.engine.close()
