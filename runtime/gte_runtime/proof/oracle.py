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


Product = Callable[[str, Float, Float], Float]
"""(name of a linear layer, x [n, K], weight [N, K]) -> their product, [n, N]."""


def exact(name: str, x: Float, weight: Float) -> Float:
    """x weight^T."""
    product: Float = x @ weight.T
    return product


def forward(checkpoint: Checkpoint, ids: NDArray[np.integer[Any]], dtype: type = np.float64) -> Reference:
    """Run the encoder on one text.

    Args:
        checkpoint: config and weights.
        ids: token ids, [n], special tokens included.
        dtype: to compute in. In float64 the oracle's own error is far below that of any variant.
    """
    run = Forward(checkpoint, dtype)
    h = run.embed(ids)
    for n in range(checkpoint.config.architecture.layers):
        h = run.layer(n, h)
    return Reference(*run.heads(h), run.largest)


class Forward:
    """The forward pass of one text in its parts: `embed`, each `layer`, `heads`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: type = np.float64,
        *,
        product: Product = exact,
        read: Callable[[str], Float] | None = None,
    ) -> None:
        """Prepare a pass.

        Args:
            checkpoint: config and weights.
            dtype: to compute in.
            product: computes the products of the layers; `building.kept` simulates int8 with it.
            read: from the name of a weight to its values; by default the checkpoint's.
        """
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.product = product
        self.read = read or checkpoint.read
        self.largest: dict[str, Float] = {}
        """See `Reference.largest`."""

    def embed(self, ids: NDArray[np.integer[Any]], rows: Float | None = None) -> Float:
        """The input of the first layer, [n, H]. `rows` are those of the embedding table, [n, H], if they are
        not to be the checkpoint's."""
        if rows is None:
            rows = self.checkpoint.rows("embeddings.word", ids)
        h: Float = rows.astype(self.dtype)
        if "embeddings.token_type" in self.checkpoint:
            h = h + self._weight("embeddings.token_type")[0]
        return self.norm(h, "embeddings.norm")

    def layer(self, n: int, h: Float) -> Float:
        """The states after layer `n`, [n, H]."""
        a, at, length = self.checkpoint.config.architecture, f"layers.{n}", len(h)
        # Angles are float32, as in the authors' code; see checkpoint/rope.py.
        angle = np.arange(length, dtype=np.float32)[:, None] * self.checkpoint.config.rope.frequencies()
        cos, sin = np.cos(angle.astype(self.dtype)), np.sin(angle.astype(self.dtype))
        q, k, v = (_heads(self.linear(h, f"{at}.{part}"), a.heads) for part in ("query", "key", "value"))
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        mixed = _softmax(q @ k.transpose(0, 2, 1) / sqrt(a.head_size)) @ v
        mixed = mixed.transpose(1, 0, 2).reshape(length, a.hidden_size)
        h = self.norm(h + self.linear(mixed, f"{at}.output"), f"{at}.attention_norm")
        gated = _gelu(self.linear(h, f"{at}.gate")) * self.linear(h, f"{at}.up")
        return self.norm(h + self.linear(gated, f"{at}.down"), f"{at}.mlp_norm")

    def heads(self, h: Float) -> tuple[Float, Float, Float, float]:
        """The first four values of `Reference`, from the states after the last layer."""
        weights = (
            np.maximum(self.linear(h, "token_head")[:, 0], 0)
            if self.checkpoint.has_sparse_head
            else np.zeros(len(h), self.dtype)
        )
        logit = 0.0
        if self.checkpoint.reranker:
            pooled = np.tanh(self.linear(h[:1], "pair_head.pooler"))
            logit = float(self.linear(pooled, "pair_head.logit")[0, 0])
        return h[0], weights, h, logit

    def _weight(self, name: str) -> Float:
        return self.read(name).astype(self.dtype, copy=False)

    def linear(self, x: Float, name: str) -> Float:
        """x W^T + b."""
        self.largest[name] = np.abs(x).max(0)
        y = self.product(name, x, self._weight(f"{name}.weight"))
        return y + self._weight(f"{name}.bias") if f"{name}.bias" in self.checkpoint else y

    def norm(self, x: Float, name: str) -> Float:
        """LayerNorm."""
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        eps = self.checkpoint.config.architecture.layer_norm_eps
        normed: Float = centred / np.sqrt(variance + eps)
        y: Float = normed * self._weight(f"{name}.weight") + self._weight(f"{name}.bias")
        self.largest[name] = np.abs(y).max(0)
        return y


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


def expansion(checkpoint: Checkpoint, hidden: Float) -> Float:
    """The largest logit of each entry of the vocabulary over all tokens, [V], of the masked-language-model
    head.

    Args:
        checkpoint: config and weights.
        hidden: states of all tokens after the last layer, [n, H].
    """
    run = Forward(checkpoint, hidden.dtype.type)
    t = run.norm(_gelu(run.linear(hidden, "mlm_head.dense")), "mlm_head.norm")
    pieces = checkpoint.read_rows("mlm_head.decoder.weight", 8192)
    largest = np.concatenate([(t @ rows.astype(t.dtype).T).max(0) for rows in pieces])
    logits: Float = largest + checkpoint.read("mlm_head.decoder.bias").astype(t.dtype)
    return logits


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
