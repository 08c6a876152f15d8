"""The slow, obvious forward pass, in numpy. It judges every variant when a bundle is built.

No cleverness, no batching: one text at a time, one line per line of the formula. Symbols follow
the authors' code; the sources are upstream's `modeling.py` and the project's notes on the model.
"""

from __future__ import annotations

from math import erf, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.tensors import Checkpoint

Float = NDArray[np.floating[Any]]


class Reference(NamedTuple):
    """What the oracle says of one text."""

    cls: Float
    """State of token 0, [H], not normalised."""
    token_weights: Float
    """ReLU of the sparse head for every token, [n]; zeros without a head."""
    hidden: Float
    """States of all tokens, [n, H]."""
    logit: float
    """What a reranker says of the pair; 0 without a pair head."""
    largest: dict[str, Float]
    """{linear layer: largest magnitude of each of its input channels, [K]; norm: of each channel that it gives, [H]}."""


def forward(checkpoint: Checkpoint, ids: NDArray[np.integer[Any]], dtype: type = np.float64) -> Reference:
    """Run the encoder on the tokens of one text, special tokens included.

    float64 by default: its error is then far below that of any variant it judges.
    """
    a = checkpoint.config.architecture

    def w(name: str) -> Float:
        return checkpoint.read(name).astype(dtype)

    largest: dict[str, Float] = {}

    def linear(x: Float, name: str) -> Float:
        largest[name] = np.abs(x).max(0)
        y: Float = x @ w(f"{name}.weight").T
        return y + w(f"{name}.bias") if f"{name}.bias" in checkpoint else y

    def layer_norm(x: Float, name: str) -> Float:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        normed: Float = centred / np.sqrt(variance + a.layer_norm_eps)
        y: Float = normed * w(f"{name}.weight") + w(f"{name}.bias")
        largest[name] = np.abs(y).max(0)
        return y

    h: Float = checkpoint.rows("embeddings.word", ids).astype(dtype)
    if "embeddings.token_type" in checkpoint:
        h = h + w("embeddings.token_type")[0]
    h = layer_norm(h, "embeddings.norm")

    # The angle is float32 as upstream's is; see rope.py.
    angle = np.arange(len(ids), dtype=np.float32)[:, None] * checkpoint.config.rope.frequencies()
    cos, sin = np.cos(angle.astype(dtype)), np.sin(angle.astype(dtype))

    for n in range(a.layers):
        at = f"layers.{n}"
        q, k, v = (_heads(linear(h, f"{at}.{part}"), a.heads) for part in ("query", "key", "value"))
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        mixed = _softmax(q @ k.transpose(0, 2, 1) / sqrt(a.head_size)) @ v
        mixed = mixed.transpose(1, 0, 2).reshape(len(ids), a.hidden_size)
        h = layer_norm(h + linear(mixed, f"{at}.output"), f"{at}.attention_norm")
        y = linear(_gelu(linear(h, f"{at}.gate")) * linear(h, f"{at}.up"), f"{at}.down")
        h = layer_norm(h + y, f"{at}.mlp_norm")

    weights = (
        np.maximum(linear(h, "token_head")[:, 0], 0)
        if checkpoint.has_sparse_head
        else np.zeros(len(ids), dtype)
    )
    logit = 0.0
    if checkpoint.reranker:
        logit = float(linear(np.tanh(linear(h[:1], "pair_head.pooler")), "pair_head.logit")[0, 0])
    return Reference(h[0], weights, h, logit, largest)


def _heads(x: Float, heads: int) -> Float:
    """[n, H] to [heads, n, H / heads]."""
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def _rotate(x: Float, cos: Float, sin: Float) -> Float:
    """RoPE on [heads, n, d]; dimension i pairs with i + d/2."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _softmax(scores: Float) -> Float:
    raised: Float = np.exp(scores - scores.max(-1, keepdims=True))
    weights: Float = raised / raised.sum(-1, keepdims=True)
    return weights


_erf = np.frompyfunc(erf, 1, 1)


def _gelu(x: Float) -> Float:
    """The exact form with erf; the tanh form is off by 1e-3."""
    error: Float = _erf(x / sqrt(2)).astype(x.dtype)
    return 0.5 * x * (1 + error)
