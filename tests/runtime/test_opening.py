"""What `open` chooses, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gte_runtime import Embedder
from gte_runtime.errors import (
    BundleError,
    ConfigError,
    ProviderError,
    ProviderUnavailableError,
)


@pytest.fixture(scope="module")
def gte(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle) as engine:
        yield engine


def test_unknown_options(gte: Embedder, tiny_bundle: Path):
    """Unknown values are refused with what there is."""
    with pytest.raises(ConfigError, match="'strict' or 'replace'"):
        gte.encode("a", errors="ignore")  # type: ignore[arg-type]
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
