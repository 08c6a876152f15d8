"""The committed probe is what its generator writes."""

from __future__ import annotations

from pathlib import Path

import gte_runtime
from gte_export.probe import probe


def test_the_runtime_holds_this_probe():
    """So nobody changes one without the other."""
    held = Path(gte_runtime.__file__).parent / "device" / "int8_probe.onnx"
    assert held.read_bytes() == probe().SerializeToString(deterministic=True)
