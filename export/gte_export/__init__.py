"""Traces the PyTorch encoder into graphs without weights. Maintainers use it; users of vectors do not."""

import os

# optimum imports ONNX Runtime by itself; see `gte_runtime.device.runtime.runtime`.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
