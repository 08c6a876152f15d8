"""Writes logits.npz: what transformers' own class says of every reranker of tests/checkpoints.py.

As make_expected.py, whose environment and reasons are the same:

    PYTHONPATH=runtime:export:tests PYTHON tests/data/native/make_logits.py

Arrays, for each reranker NAME:

    NAME.ids     int16 [T]     tokens of all pairs in a row; LENGTHS says where they end
    NAME.logits  float32 [n]   no sigmoid
    NAME.total   float64       sum of the absolute values of all tensors: identifies the checkpoint
    lengths      int16 [n]
"""
# ruff: noqa: TID251 - torch and transformers are what this file is for; it runs in an environment of its own

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import RERANKERS, write_variation
from make_expected import LENGTHS, native_config, native_tensors
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import GteForSequenceClassification

OUTPUT = Path(__file__).with_name("logits.npz")


def native_model(directory: Path, prefix: str) -> GteForSequenceClassification:
    """With a pooler without prefix moved to where the class has it; all tensors must be used."""
    model: GteForSequenceClassification
    stored = {
        f"{prefix}{name}" if name.startswith("pooler.") else name: tensor
        for name, tensor in load_file(directory / "model.safetensors").items()
    }
    tensors = native_tensors(stored, prefix)
    model = GteForSequenceClassification(native_config(RERANKERS[directory.name].config)).eval()
    model.load_state_dict(tensors, strict=True)
    if model.config._attn_implementation != "eager":
        raise ValueError("transformers set the model up in another way than this file asks for")
    return model


@torch.inference_mode()
def expected(name: str) -> Iterator[tuple[str, NDArray[Any]]]:
    variation = RERANKERS[name]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / name
        write_variation(name, directory)
        model = native_model(directory, variation.form.prefix)
        stored = load_file(directory / "model.safetensors")
    rng = np.random.default_rng(variation.seed)
    ids = [rng.integers(0, variation.config["vocab_size"], length) for length in LENGTHS]
    batches = [torch.from_numpy(one)[None] for one in ids]
    logits = [
        model(tokens, attention_mask=torch.ones_like(tokens)).logits[0, 0].numpy() for tokens in batches
    ]
    yield "ids", np.concatenate(ids).astype(np.int16)
    yield "logits", np.stack(logits)
    yield "total", np.array(sum(float(tensor.double().abs().sum()) for tensor in stored.values()))


def main() -> None:
    arrays: dict[str, NDArray[Any]] = {"lengths": np.array(LENGTHS, np.int16)}
    for name in RERANKERS:
        arrays |= {f"{name}.{key}": values for key, values in expected(name)}
        print(name, arrays[f"{name}.logits"])
    np.savez_compressed(OUTPUT, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the first for allow_pickle


if __name__ == "__main__":
    main()
