"""Writes checkpoints with random weights in every naming of the family, for tests and benchmarks. numpy only.

The weights of queries and keys are large enough for attention to depend strongly on position, so that an
error in RoPE changes the vectors clearly.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gte_runtime.checkpoint.config import parse_config
from gte_runtime.checkpoint.tensors import expected_shapes

Spelling = Literal["packed", "unpacked", "native"]
ITEM = {"F16": 2, "F32": 4, "BF16": 2}
SHARP = 2.0
"""The standard deviation of queries and keys for inputs of variance 1. Other products have 0.6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the tensors are named, packed and stored.

    For one seed, checkpoints that differ in prefix or type have the same numbers. Packing changes the order
    in which they are drawn.
    """

    prefix: str = "new."
    spelling: Spelling = "packed"
    dtype: str = "F16"
    classifier: bool = True
    pooler_prefix: str | None = None
    """The prefix of a reranker's pooler; by default that of all tensors."""


def write_random_checkpoint(
    directory: Path,
    config: dict[str, Any],
    form: Form = Form(),
    *,
    seed: int = 0,
    tokenizer: Path | None = None,
) -> None:
    """Write config.json, model.safetensors and, if given, tokenizer.json.

    Args:
        directory: where to write; made if it does not exist.
        config: the contents of config.json.
        form: prefix, packing and type of the tensors.
        seed: of the random numbers.
        tokenizer: a tokenizer.json to copy.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    parsed = parse_config(config)
    shapes = expected_shapes(parsed, form.classifier and not parsed.names_reranker, parsed.names_reranker)
    _write(directory / "model.safetensors", list(_stored(shapes, form)), form.dtype, seed)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, directory / "tokenizer.json")


PACKED: dict[Spelling, dict[str, tuple[str, ...]]] = {
    "packed": {"query": ("query", "key", "value"), "up": ("up", "gate")},
    "unpacked": {"up": ("up", "gate")},
    "native": {},
}
"""{first part: parts of a layer that are one tensor on disk, one after the other}."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor on disk, and the names of the tensors in it as in `gte_runtime.checkpoint.tensors`."""

    name: str
    parts: tuple[str, ...]
    part_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.part_shape[0] * len(self.parts), *self.part_shape[1:])

    def values(self, rng: np.random.Generator) -> NDArray[np.float32]:
        return np.concatenate([_values(rng, part, self.part_shape) for part in self.parts])


def _stored(shapes: dict[str, tuple[int, ...]], form: Form) -> Iterator[_Stored]:
    packed = PACKED[form.spelling]
    inside = {part for parts in packed.values() for part in parts[1:]}
    for name, shape in shapes.items():
        if not name.startswith("layers."):
            yield _Stored(_outer_name(name, form), (name,), shape)
            continue
        _, layer, part, kind = name.split(".")
        if part not in inside:
            parts = tuple(f"layers.{layer}.{each}.{kind}" for each in packed.get(part, (part,)))
            yield _Stored(_layer_name(layer, part, kind, form), parts, shape)


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    noise = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        return 1 + noise * np.float32(0.1)
    if len(shape) == 1:
        return noise * np.float32(0.1)
    if name.startswith("embeddings."):
        return noise
    scale = SHARP if name.split(".")[-2] in ("query", "key", "token_head", "logit") else 0.6
    return noise * np.float32(scale / np.sqrt(shape[1]))


_UPSTREAM = {
    "query": "attention.q_proj", "key": "attention.k_proj", "value": "attention.v_proj",
    "output": "attention.o_proj",
    "up": "mlp.up_gate_proj", "down": "mlp.down_proj", "attention_norm": "attn_ln", "mlp_norm": "mlp_ln",
}  # fmt: skip
_NATIVE = {
    "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "up": "mlp.up_proj", "gate": "mlp.gate_proj", "down": "mlp.down_proj",
    "attention_norm": "post_attention_layernorm", "mlp_norm": "post_mlp_layernorm",
}  # fmt: skip
_FIXED = {
    "embeddings.word": "embeddings.word_embeddings.weight",
    "embeddings.token_type": "embeddings.token_type_embeddings.weight",
    "embeddings.norm.weight": "embeddings.LayerNorm.weight",
    "embeddings.norm.bias": "embeddings.LayerNorm.bias",
}


def _outer_name(name: str, form: Form) -> str:
    if name.startswith("pair_head.pooler."):
        prefix = form.prefix if form.pooler_prefix is None else form.pooler_prefix
        return name.replace("pair_head.pooler", f"{prefix}pooler.dense")
    return (
        form.prefix + _FIXED[name]
        if name in _FIXED
        else name.replace("token_head", "classifier").replace("pair_head.logit", "classifier")
    )


def _layer_name(layer: str, part: str, kind: str, form: Form) -> str:
    if form.spelling == "native":
        return f"{form.prefix}layers.{layer}.{_NATIVE[part]}.{kind}"
    stored = "attention.qkv_proj" if part == "query" and form.spelling == "packed" else _UPSTREAM[part]
    return f"{form.prefix}encoder.layer.{layer}.{stored}.{kind}"


def _write(path: Path, tensors: list[_Stored], dtype: str, seed: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        size = prod(tensor.shape) * ITEM[dtype]
        header[tensor.name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(_as_bytes(tensor.values(rng), dtype))


def _as_bytes(values: NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "BF16":
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype]).tobytes()
