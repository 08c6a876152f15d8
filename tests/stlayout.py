"""Puts the files of sentence-transformers beside a checkpoint's weights, as its `save` does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorfile import Tensor, safetensors

CLS = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MEAN = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def modules(*kinds: str, encoder: str = "") -> list[dict[str, Any]]:
    """modules.json of these kinds, in the folders that sentence-transformers gives them."""
    return [
        {
            "idx": n,
            "name": str(n),
            "path": encoder if n == 0 else f"{n}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for n, kind in enumerate(kinds)
    ]


def put(folder: Path, files: Mapping[str, Any]) -> Path:
    """Write files by their names: text as it is, anything else as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def copy_of(checkpoint: Path, folder: Path, files: Mapping[str, Any] | None = None) -> Path:
    """A checkpoint's copy in a new folder, with these files beside it."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copyfile(checkpoint / name, folder / name)
    return put(folder, files or {})


def put_dense(
    folder: Path,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    activation: str = "torch.nn.modules.activation.Tanh",
    **config: Any,
) -> None:
    """A Dense module's folder."""
    folder.mkdir(parents=True)
    outputs, inputs = weight.shape
    raw = {"in_features": inputs, "out_features": outputs, "bias": bias is not None}
    put(folder, {"config.json": raw | {"activation_function": activation} | config})
    tensors = {"linear.weight": Tensor.of(weight, "F32")}
    if bias is not None:
        tensors["linear.bias"] = Tensor.of(bias, "F32")
    (folder / "model.safetensors").write_bytes(safetensors(tensors))


def shard(folder: Path, tensors: Mapping[str, Tensor], parts: Sequence[Sequence[str]]) -> dict[str, str]:
    """Write tensors into several files. Returns {tensor: file}, as an index holds it."""
    places: dict[str, str] = {}
    for n, names in enumerate(parts, 1):
        file = f"model-{n:05}-of-{len(parts):05}.safetensors"
        (folder / file).write_bytes(safetensors({name: tensors[name] for name in names}))
        places |= dict.fromkeys(names, file)
    return places
