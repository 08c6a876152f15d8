"""Writes the student as a checkpoint: config.json, model.safetensors in float16, tokenizer.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from model import CONFIG, Student
from safetensors.torch import save_file


def write(student: Student, tokenizer: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        name if name.startswith("classifier") else f"new.{name}": tensor.to("cpu", torch.float16).contiguous()
        for name, tensor in student.state_dict().items()
    }
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # it comes readable for its owner alone
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    if tokenizer.resolve() != (out / "tokenizer.json").resolve():
        shutil.copyfile(tokenizer, out / "tokenizer.json")
