"""Writes expected.npz: what transformers' own GTE model says of every checkpoint of tests/checkpoints.py.

transformers has this model from release 5 on, gte-export needs release 4: so it takes an environment of
its own, with Python 3.11, transformers 5.23.0, torch 2.13.0, numpy 2.4.6, safetensors 0.8.0 and
tokenizers 0.23.3. From the root of the repository:

    PYTHONPATH=runtime:export:tests PYTHON tests/data/native/make_expected.py

float32, eager attention, one text at a time. Nothing of gte_runtime computes here:
tensors are read by safetensors, un-packed and renamed by the tables below,
and RoPE is given as transformers spells it.
Where transformers can read a file by itself, its reading has to be the same as ours.

Arrays, for each variation NAME:

    NAME.ids       int16 [T]     tokens of all texts in a row; LENGTHS says where they end
    NAME.cls       float32 [n, H]  states of the first tokens, not normalised
    NAME.weights   float32 [T]   relu(classifier(state)) of every token; absent without a classifier
    NAME.inv_freq  float32 [d/2] RoPE frequencies
    NAME.total     float64       sum of the absolute values of all tensors: identifies the checkpoint
    lengths        int16 [n]
"""
# ruff: noqa: TID251 - torch and transformers are what this file is for; it runs in an environment of its own

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import VARIATIONS, Variation, write_variation
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from transformers import GteConfig, GteForTokenClassification

OUTPUT = Path(__file__).with_name("expected.npz")
LENGTHS = (2, 3, 17, 63, 64, 150)
"""On both sides of every limit that the runtime has: the smallest, one block of 64, the path without mask
from 128.
"""

SMALLEST_PEAK = 1.0
"""Texts whose largest token weight is less are drawn again: errors are judged relative to it."""

LAYER = {
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.o_proj",
    "mlp.down_proj": "mlp.down_proj",
    "attn_ln": "post_attention_layernorm",
    "mlp_ln": "post_mlp_layernorm",
}
PACKED = {
    "attention.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.up_gate_proj": ("mlp.up_proj", "mlp.gate_proj"),
}


def native_tensors(stored: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A file's tensors in float32, under the names of GteForTokenClassification."""
    native: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        for renamed, part in _renamed(name, tensor.float(), prefix):
            if renamed in native:
                raise ValueError(f"{renamed} comes from two tensors, {name} is the second")
            native[renamed] = part
    return native


def _renamed(name: str, tensor: Tensor, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if name.startswith("classifier."):
        yield name, tensor
        return
    if not name.startswith(prefix):
        raise ValueError(f"{name} lacks the prefix {prefix}")
    bare = name.removeprefix(prefix)
    if not bare.startswith("encoder.layer."):  # embeddings, and layers that have transformers' names already
        yield f"gte.{bare}", tensor
        return
    number, _, rest = bare.removeprefix("encoder.layer.").partition(".")
    part, kind = rest.rsplit(".", 1)
    targets = PACKED[part] if part in PACKED else (LAYER[part],)
    for target, rows in zip(targets, tensor.chunk(len(targets)), strict=True):
        yield f"gte.layers.{number}.{target}.{kind}", rows


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE as transformers spells it.

    It has no `ntk`: that is base theta*f, divided by f^(2/d) at every position.
    """
    if "rope_parameters" in config:
        return dict(config["rope_parameters"])
    theta, scaling = float(config["rope_theta"]), config["rope_scaling"]
    if scaling is None or "mixed_b" in scaling:
        return {"rope_type": "default", "rope_theta": theta}
    factor = scaling["factor"]
    return {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / _head_size(config))}


def mixed_frequencies(config: Mapping[str, Any]) -> Tensor:
    """b^(-2i/d) / exp(a m^c) with m = i + 1, a = ln f / (d/2)^c."""
    d, c, f = (
        _head_size(config),
        config["rope_scaling"]["mixed_b"],
        torch.tensor(config["rope_scaling"]["factor"]),
    )
    i = torch.arange(d // 2, dtype=torch.float32)
    a = torch.log(f) / torch.tensor(d / 2) ** c
    return torch.tensor(float(config["rope_theta"])) ** (-2 * i / d) / torch.exp(a * (i + 1) ** c)


def _head_size(config: Mapping[str, Any]) -> int:
    size: int = config["hidden_size"] // config["num_attention_heads"]
    return size


def native_config(config: Mapping[str, Any]) -> GteConfig:
    """The fields that transformers' class reads; with type_vocab_size 0 it has no token-type table, as
    upstream.
    """
    same = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "hidden_act",
        "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id",
    )  # fmt: skip
    fields = {key: config[key] for key in same}
    fields |= {"num_labels": 1, "rope_parameters": rope_parameters(config), "attn_implementation": "eager"}
    return GteConfig(**fields)


def native_model(directory: Path, variation: Variation) -> GteForTokenClassification:
    model: GteForTokenClassification = GteForTokenClassification(native_config(variation.config)).eval()
    tensors = native_tensors(load_file(directory / "model.safetensors"), variation.form.prefix)
    if not variation.form.classifier:
        tensors |= {
            f"classifier.{kind}": torch.zeros_like(tensor)
            for kind, tensor in model.classifier.named_parameters()
        }
    model.load_state_dict(tensors, strict=True)
    if "mixed_b" in (variation.config.get("rope_scaling") or {}):
        # transformers has no RoPE of this kind; its class multiplies positions with whatever this buffer
        # holds.
        model.gte.rotary_emb.inv_freq.copy_(mixed_frequencies(variation.config))
    if model.config._attn_implementation != "eager" or model.gte.rotary_emb.attention_scaling != 1.0:
        raise ValueError("transformers set the model up in another way than this file asks for")
    return model


UNREADABLE = ("unpacked", "auto_model_prefix")
"""transformers knows neither upstream's separate query, key and value nor this prefix."""


def compare_with_their_reading(directory: Path, model: GteForTokenClassification, classifier: bool) -> None:
    """transformers un-packs upstream's tensors on loading; ours have to be the same, in number and value."""
    loaded: Any = GteForTokenClassification.from_pretrained(
        directory, config=model.config, dtype=torch.float32, output_loading_info=True
    )
    theirs, report = loaded
    absent = set() if classifier else {"classifier.weight", "classifier.bias"}
    if report["missing_keys"] != absent or report["unexpected_keys"] or report["mismatched_keys"]:
        raise ValueError(f"transformers did not read everything: {report}")
    mine, read = model.state_dict(), theirs.state_dict()
    if sorted(mine) != sorted(read):
        raise ValueError("other names than those of transformers")
    for name in set(read) - absent:
        if not torch.equal(read[name], mine[name]):
            raise ValueError(f"{name} differs from transformers' own reading")


@torch.inference_mode()
def run(
    model: GteForTokenClassification, ids: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(CLS state, token weights). No token types are given: the class then takes row 0, as upstream does."""
    tokens = torch.from_numpy(ids)[None]
    hidden = model.gte(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
    weights = torch.relu(model.classifier(hidden))[:, 0]
    return hidden[0].numpy(), weights.numpy()


def expected(name: str) -> Iterator[tuple[str, NDArray[Any]]]:
    variation = VARIATIONS[name]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_variation(name, directory)
        model = native_model(directory, variation)
        if name not in UNREADABLE:
            compare_with_their_reading(directory, model, variation.form.classifier)
        stored = load_file(directory / "model.safetensors")
    rng = np.random.default_rng(variation.seed)
    ids, states, weights = [], [], []
    for length in LENGTHS:
        while True:
            drawn = rng.integers(0, variation.config["vocab_size"], length)
            state, weight = run(model, drawn)
            if not variation.form.classifier or weight.max() >= SMALLEST_PEAK:
                break
        ids.append(drawn)
        states.append(state)
        weights.append(weight)
    yield "ids", np.concatenate(ids).astype(np.int16)
    yield "cls", np.stack(states)
    if variation.form.classifier:
        yield "weights", np.concatenate(weights)
    yield "inv_freq", model.gte.rotary_emb.inv_freq.numpy()
    yield "total", np.array(sum(float(tensor.double().abs().sum()) for tensor in stored.values()))


def main() -> None:
    arrays: dict[str, NDArray[Any]] = {"lengths": np.array(LENGTHS, np.int16)}
    for name in VARIATIONS:
        arrays |= {f"{name}.{key}": values for key, values in expected(name)}
        print(
            name,
            {
                key.partition(".")[2]: values.shape
                for key, values in arrays.items()
                if key.startswith(f"{name}.")
            },
        )
    np.savez_compressed(OUTPUT, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the first for allow_pickle


if __name__ == "__main__":
    main()
