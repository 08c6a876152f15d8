"""The processor's name and the features that decide which kernels run."""

from __future__ import annotations

from pathlib import Path

import pytest

from gte_runtime.machine import processor


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which Linux describes the processor. It is not there until a test writes it."""
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def test_processor_name(cpuinfo: Path):
    """The name the system gives; where there is none, at least the architecture."""
    assert processor.model()
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\nmodel name\t: other\n")
    assert processor.model() == "Some CPU: 3 GHz"


def test_features(cpuinfo: Path):
    """Those that change kernels, in our order, as whole words; x86 and ARM name the line differently."""
    assert processor.features() == ()
    cpuinfo.write_text("flags\t\t: fpu avx512_vnni avx2 avx512fp16 sse\n")
    assert processor.features() == ("avx2", "avx512_vnni")
    cpuinfo.write_text("Features\t: fp asimd asimddp crc32\n")
    assert processor.features() == ("asimd", "asimddp")


def test_a_file_that_is_not_text(cpuinfo: Path):
    """Odd bytes in a name do not stop anything."""
    cpuinfo.write_bytes(b"model name : caf\xe9\nflags : avx2\n")
    assert processor.model().startswith("caf")
    assert processor.features() == ("avx2",)
