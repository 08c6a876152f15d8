"""OpenVINO on the model converted from PyTorch. File and hints set one of four precisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peers.worker import Float32, padded, serve


class OpenVino:
    """LATENCY hint, one stream with all threads; results are read without a copy beyond the CLS rows."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import openvino

        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": settings["threads"],
        } | settings["hints"]
        compiled = openvino.Core().compile_model(settings["ir"], "CPU", hints)
        self._request = compiled.create_infer_request()
        asked = (
            "INFERENCE_PRECISION_HINT",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE",
            "INFERENCE_NUM_THREADS",
            "NUM_STREAMS",
        )
        self.notes = {key: str(compiled.get_property(key)) for key in asked}

    def run(self, batch: Sequence[Sequence[int]]) -> Float32:
        ids, mask = padded(batch)
        self._request.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True)
        return self._request.get_output_tensor(0).data[:, 0].copy()


if __name__ == "__main__":
    serve(OpenVino, ("openvino", "nncf", "tokenizers"))
