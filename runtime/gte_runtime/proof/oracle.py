"""The oracle: the encoder's forward pass in plain numpy. A build compares every variant with it.

It runs one text at a time, without any optimisation. Names follow the authors' code, `modeling.py` of
Alibaba-NLP/new-impl on the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import erf, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.tensors import Checkpoint

Float = NDArray[np.floating[Any]]


class Reference(NamedTuple):
    """The oracle's results for one text, or for one pair in a reranker."""

    cls: Float
    """State of the first token after the last layer, [H], not normalised."""
    token_weights: Float
    """Sparse weights of all tokens after ReLU, [n]; zeros without a sparse head."""
    hidden: Float
    """States of all tokens after the last layer, [n, H]."""
    logit: float
    """Raw score of a reranker; 0.0 without a pair head."""
    largest: dict[str, Float]
    """Largest magnitudes, for int8: {linear layer: of each input channel, [K]; norm: of each output channel,
    [H]}."""


def forward(checkpoint: Checkpoint, ids: NDArray[np.integer[Any]], dtype: type = np.float64) -> Reference:
    """Run the encoder on one text.

    Args:
        checkpoint: config and weights.
        ids: token ids, [n], special tokens included.
        dtype: to compute in. In float64 the oracle's own error is far below that of any variant.
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

    # Angles are float32, as in the authors' code; see checkpoint/rope.py.
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


def after_encoder(hidden: Float, pooling: Sequence[str], layers: Sequence[tuple[Float, Float, str]]) -> Float:
    """The vector of a text, [dim], not normalised: the pooling, and linear layers behind it.

    Args:
        hidden: states of all tokens after the last layer, [n, H].
        pooling: modes; their vectors are put one after the other.
        layers: (W [outputs, inputs], b [outputs], activation) of each.
    """
    n = len(hidden)
    rank = np.arange(1, n + 1)[:, None]
    means: dict[str, Callable[[], Float]] = {
        "cls": lambda: hidden[0],
        "lasttoken": lambda: hidden[n - 1],
        "max": lambda: np.sort(hidden, axis=0)[-1],
        "mean": lambda: hidden.mean(axis=0),
        "mean_sqrt_len_tokens": lambda: hidden.mean(axis=0) * sqrt(n),
        "weightedmean": lambda: (hidden * (rank / (n * (n + 1) / 2))).sum(axis=0),
    }
    v: Float = np.concatenate([means[mode]() for mode in pooling])
    for weight, bias, activation in layers:
        v = v @ weight.astype(v.dtype).T + bias.astype(v.dtype)
        if activation == "tanh":
            v = np.tanh(v)
        elif activation == "relu":
            v = np.where(v > 0, v, 0.0)
        elif activation == "sigmoid":
            v = 1 / (1 + np.exp(-v))
    return v


def _heads(x: Float, heads: int) -> Float:
    """[n, H] to [heads, n, H / heads]."""
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def _rotate(x: Float, cos: Float, sin: Float) -> Float:
    """RoPE (https://arxiv.org/abs/2104.09864) on [heads, n, d]; dimension i is paired with i + d/2."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _softmax(scores: Float) -> Float:
    raised: Float = np.exp(scores - scores.max(-1, keepdims=True))
    weights: Float = raised / raised.sum(-1, keepdims=True)
    return weights


_erf = np.frompyfunc(erf, 1, 1)


def _gelu(x: Float) -> Float:
    """GELU in its exact form, with erf. The approximation with tanh differs by up to 1e-3."""
    error: Float = _erf(x / sqrt(2)).astype(x.dtype)
    return 0.5 * x * (1 + error)
