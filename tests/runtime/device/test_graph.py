"""Loading a graph: what does not fit the manifest or this machine is refused before its first run."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from gte_runtime.bundle.directory import Bundle
from gte_runtime.device.cpu import CpuSession
from gte_runtime.device.graph import pair_sums_overflow
from gte_runtime.errors import BundleError, BundleVersionError

WIDTH = 64


def test_old_onnxruntime_is_named(tiny_bundle: Path):
    """A graph that needs a newer ONNX Runtime says which one, and is not tried."""
    bundle = Bundle.open(tiny_bundle)
    variant = replace(bundle.variant("cpu-fp32"), min_onnxruntime="99.0")
    with pytest.raises(BundleVersionError, match=r"needs ONNX Runtime 99\.0"):
        CpuSession(b"", tiny_bundle, variant, WIDTH)


def test_other_inputs_than_promised(tiny_bundle: Path):
    """A graph whose inputs are not the manifest's is refused before its first run."""
    bundle = Bundle.open(tiny_bundle)
    padded, ragged = bundle.variant("portable-fp32"), bundle.variant("cpu-fp32")
    with pytest.raises(BundleError, match=r"expected inputs .*attention_mask.* found .*cu_seqlens"):
        CpuSession(bundle.read(ragged.graph), tiny_bundle, replace(padded, graph=ragged.graph), WIDTH)


def test_nothing_on_stdout(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]):
    """A graph that does not load leaves stdout empty and names no directory."""
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(BundleError) as caught:
        CpuSession(b"not a graph", tiny_bundle, bundle.variant("cpu-fp32"), WIDTH)
    assert str(tiny_bundle) not in str(caught.value)
    assert capfd.readouterr().out == ""


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists() or platform.machine() != "x86_64",
    reason="reads an x86 processor's features",
)
def test_overflow_is_seen_where_it_is():
    """Processors without VNNI add pairs of int8 products in 16 bits; only there the slower exact kernels are
    asked for.
    """
    flags = set(
        next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
        ).split()
    )
    assert pair_sums_overflow() == (not flags & {"avx512_vnni", "avx_vnni"})
