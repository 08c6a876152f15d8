"""Makes what the peers load from a checkpoint: transformers' own format, and its plain ONNX export.

    python -m peers.prepare_torch native CHECKPOINT NATIVE
    python -m peers.prepare_torch onnx NATIVE ONNX

`onnx` is what a user of transformers gets: `torch.onnx.export(dynamo=True)` of its own model, float32, with
dynamic batch and length, everything else at its default.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

LENGTH = 8192


def write_native(checkpoint: Path, native: Path) -> None:
    """The same weights, with the files that transformers and sentence-transformers read."""
    native.mkdir(parents=True, exist_ok=True)
    old = json.loads((checkpoint / "config.json").read_text())
    kept = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "layer_norm_eps",
    )
    config = {
        key: old[key]
        for key in (*kept, "max_position_embeddings", "type_vocab_size", "pad_token_id", "hidden_act")
    }
    factor = old["rope_scaling"]["factor"]
    head_size = old["hidden_size"] // old["num_attention_heads"]
    rope = {
        "rope_type": "linear",
        "rope_theta": old["rope_theta"] * factor,
        "factor": factor ** (2 / head_size),
    }
    config |= {
        "model_type": "gte",
        "architectures": ["GteModel"],
        "rope_parameters": rope,
        "dtype": "float32",
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": LENGTH,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (native / "1_Pooling").mkdir(exist_ok=True)
    (native / "2_Normalize").mkdir(exist_ok=True)
    for name, content in {
        "config.json": config,
        "tokenizer_config.json": tokenizer,
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": LENGTH, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": old["hidden_size"],
            "pooling_mode_cls_token": True,
        },
    }.items():
        (native / name).write_text(json.dumps(content, indent=1) + "\n")
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copyfile(checkpoint / name, native / name)


def export_onnx(native: Path, target: Path) -> None:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(native, dtype=torch.float32, local_files_only=True).eval()

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.ones(2, 12, dtype=torch.long) * 7
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=LENGTH)
    target.parent.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        torch.onnx.export(
            States().eval(),
            (ids, mask),
            str(target),
            dynamo=True,
            external_data=True,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_shapes={"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}},
        )


if __name__ == "__main__":
    {"native": write_native, "onnx": export_onnx}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
