"""ONNX Runtime as a library: what it reports, prints and raises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gte_runtime.device.runtime import NO_TELEMETRY


@pytest.mark.slow
@pytest.mark.parametrize("imported_before", [False, True])
def test_nothing_is_reported(tiny_bundle: Path, tmp_path: Path, imported_before: bool):
    """ONNX Runtime's own reports stay off: it keeps no number of the machine, and queues no event."""
    code = f"from gte_runtime import Embedder; Embedder.open({str(tiny_bundle)!r}).encode('dog')"
    environment = {
        name: value for name, value in os.environ.items() if name not in (NO_TELEMETRY, "XDG_CACHE_HOME")
    }
    environment |= {"HOME": str(tmp_path)}
    if imported_before:
        code = "import onnxruntime; " + code
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=120, check=True)
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    if not imported_before:
        assert kept == []
    for queue in (file for file in kept if ".db" in file.name):
        assert b"modelGraphName" not in queue.read_bytes()
