"""The processor's name and features."""

from __future__ import annotations

from pathlib import Path

import pytest

from gte_runtime.machine import processor


def test_processor_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The name the system gives; where there is none, at least the architecture."""
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    assert processor.model()
    processor.CPUINFO.write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\nmodel name\t: other\n")
    assert processor.model() == "Some CPU: 3 GHz"
