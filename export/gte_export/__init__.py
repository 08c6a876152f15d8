"""Traces the PyTorch encoder into graphs without weights. Only maintainers need it."""

import os

# optimum imports ONNX Runtime, which must not send telemetry; see `gte_runtime.device.runtime`.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
