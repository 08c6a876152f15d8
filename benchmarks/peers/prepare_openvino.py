"""OpenVINO's files: python -m peers.prepare_openvino f32|int8-weights|int8-static SOURCE TARGET [WORKS].

f32: converted from PyTorch, the documented way. int8-weights: `nncf.compress_weights`, INT8_SYM; the
activations become int8 when it runs. int8-static: `nncf.quantize` for transformers, calibrated on 24 texts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SAMPLES = 24


def convert(native: Path, target: Path) -> None:
    import openvino
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(
        native, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    ).eval()

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.ones(2, 12, dtype=torch.long) * 7
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    shape = ([-1, -1], openvino.Type.i64)
    converted = openvino.convert_model(
        States().eval(),
        example_input={"input_ids": ids, "attention_mask": mask},
        input={"input_ids": shape, "attention_mask": shape},
    )
    openvino.save_model(converted, target, compress_to_fp16=False)


def compress_weights(source: Path, target: Path) -> None:
    import nncf
    import openvino

    model = openvino.Core().read_model(source)
    openvino.save_model(
        nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM), target, compress_to_fp16=False
    )


def quantize(source: Path, target: Path, works: Path) -> None:
    import nncf
    import openvino

    from peers.worker import padded

    samples = json.loads(works.read_text())["calibration"]["ids"][:SAMPLES]

    def feeds(ids: list[int]) -> dict[str, object]:
        input_ids, mask = padded([ids])
        return {"input_ids": input_ids, "attention_mask": mask}

    model = openvino.Core().read_model(source)
    quantized = nncf.quantize(
        model, nncf.Dataset(samples, feeds), model_type=nncf.ModelType.TRANSFORMER, subset_size=SAMPLES
    )
    openvino.save_model(quantized, target, compress_to_fp16=False)


def main() -> None:
    kind, source, target, *rest = sys.argv[1:]
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    if kind == "f32":
        convert(Path(source), Path(target))
    elif kind == "int8-weights":
        compress_weights(Path(source), Path(target))
    else:
        quantize(Path(source), Path(target), Path(rest[0]))


if __name__ == "__main__":
    main()
