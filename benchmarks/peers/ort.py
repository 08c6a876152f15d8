"""ONNX Runtime on the plain export, and on `quantize_dynamic` of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peers.worker import Float32, padded, serve


class Ort:
    """All graph optimizations; arena and spinning at their defaults."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings["threads"]
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session = onnxruntime.InferenceSession(
            settings["onnx"], options, providers=["CPUExecutionProvider"]
        )

    def run(self, batch: Sequence[Sequence[int]]) -> Float32:
        ids, mask = padded(batch)
        return self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0][:, 0]


if __name__ == "__main__":
    serve(Ort, ("onnxruntime", "tokenizers"))
