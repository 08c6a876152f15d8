"""From the states of a text's tokens to a sparse vector over the whole vocabulary: the masked-language-model
head, as SPLADE uses it (Formal et al. 2021, https://arxiv.org/abs/2109.10086).

    t = LayerNorm(gelu(W h + b))      of every token, special tokens included
    logit_v = max over tokens of (t . E_v + c_v)
    weight_v = log(1 + relu(logit_v)), or log(1 + log(1 + relu(logit_v)))

This is what sentence-transformers computes with MLMTransformer and SpladePooling. The logits of all tokens
would take a gigabyte for a thousand tokens and a vocabulary of 250,048, so they are computed in blocks of
TOKENS x ENTRIES, of which only the running maximum is kept. Each text is computed by itself, in blocks that
its own length decides, so it has the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..arrays import AnyArray, Float32, Float64, Int64, all_finite
from ..errors import BundleError
from ..format.manifest import MLM_HEAD, QUERY_WEIGHTS, Manifest
from .batch import Batch
from .session import Expansion, Outputs, Session, Share

TOKENS, ENTRIES = 512, 4096
"""A block of logits has 8 MB and stays in the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class MlmHead:
    """The head of one model."""

    weight: Float32
    """W of the first layer, [H, H]."""
    bias: Float32
    """b of the first layer, [H]."""
    norm_weight: Float32
    norm_bias: Float32
    decoder: Float32
    """E, [V, H]: mostly the embedding table."""
    decoder_bias: Float32
    """c, [V]."""
    eps: float
    activation: str
    """One of `manifest.EXPANSIONS`."""

    @classmethod
    def read(cls, manifest: Manifest, data: bytes) -> MlmHead:
        """The head from its file in a bundle, whose size the manifest's checks have compared.

        Raises:
            BundleError: a value is NaN or infinite.
        """
        values = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
        if not all_finite(values):
            raise BundleError(
                f"{MLM_HEAD} holds NaN or infinity; build the bundle again from an undamaged checkpoint"
            )
        h, v = manifest.architecture.hidden_size, manifest.architecture.vocab_size
        ends = np.cumsum([h * h, h, h, h, v * h])
        weight, bias, norm_weight, norm_bias, decoder, decoder_bias = np.split(values, ends)
        eps = manifest.architecture.layer_norm_eps
        return cls(
            weight.reshape(h, h), bias, norm_weight, norm_bias, decoder.reshape(v, h), decoder_bias, eps,
            manifest.expansion,
        )  # fmt: skip

    def __call__(self, states: Float32) -> Expansion:
        """The weights of a text above 0, from the states of its n tokens, [n, H].

        Returns:
            Ids, ascending, and their weights.
        """
        hidden = self._transformed(states)
        largest = np.full(len(self.decoder), -np.inf, np.float32)
        for start in range(0, len(self.decoder), ENTRIES):
            entries = self.decoder[start : start + ENTRIES].T
            for first in range(0, len(hidden), TOKENS):
                logits = hidden[first : first + TOKENS] @ entries
                part = largest[start : start + ENTRIES]
                np.maximum(part, logits.max(axis=0), out=part)
        weights: Float32 = activated(largest + self.decoder_bias, self.activation)
        # A NaN is kept, so that the engine finds it and refuses the text.
        ids: Int64 = np.flatnonzero(~(weights <= 0))
        return Expansion(ids, weights[ids])

    def _transformed(self, states: Float32) -> Float32:
        x = gelu((states @ self.weight.T + self.bias).astype(np.float64))
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        normed = centred / np.sqrt(variance + self.eps) * self.norm_weight + self.norm_bias
        result: Float32 = normed.astype(np.float32)
        return result


def activated(logits: AnyArray, activation: str) -> AnyArray:
    """log(1 + relu(x)), once or twice, in the type of the logits."""
    weights: AnyArray = np.log1p(np.maximum(logits, 0))
    if activation == "log1p_relu":
        weights = np.log1p(weights)
    return weights


def gelu(x: Float64) -> Float64:
    """GELU in its exact form. erf is approximated to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    scaled = np.abs(x) * np.sqrt(0.5)
    t = 1 / (1 + 0.3275911 * scaled)
    polynomial = np.zeros_like(t)
    for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        polynomial = t * (coefficient + polynomial)
    erf = 1 - polynomial * np.exp(-(scaled**2))
    result: Float64 = 0.5 * x * (1 + np.sign(x) * erf)
    return result


class ExpandingSession:
    """A session that also gives the expansion of each text. All else is the inner session's."""

    def __init__(self, inner: Session, head: MlmHead, query_weights: Float32 | None = None) -> None:
        self.inner = inner
        self.query_weights = query_weights
        """The weight of each entry of the vocabulary in a query, [V]; None where queries are as documents."""
        self.provider = inner.provider
        self.workers = inner.workers
        self._head = head

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        outputs = self.inner.run(batch, share, owner, states=True)
        texts = np.split(outputs.token_states, batch.cu_seqlens[1:-1])
        expanded = replace(outputs, expansions=tuple(map(self._head, texts)))
        return expanded if states else replace(expanded, token_states=outputs.token_states[:0])

    def stop(self, owner: object) -> None:
        self.inner.stop(owner)

    def close(self) -> None:
        self.inner.close()


def with_expansion(session: Session, manifest: Manifest, read: Callable[[str], bytes]) -> Session:
    """The session with the masked-language-model head behind it; itself where the bundle has none.

    Args:
        session: runs the encoder.
        manifest: of the bundle.
        read: from the name of a file of the bundle to its bytes.
    """
    if not manifest.expansion:
        return session
    weights = None
    if manifest.query_weights:
        weights = np.frombuffer(read(QUERY_WEIGHTS), "<f4").astype(np.float32, copy=False)
    return ExpandingSession(session, MlmHead.read(manifest, read(MLM_HEAD)), weights)


def static_vector(ids: Int64, weights: AnyArray) -> Expansion:
    """The query encoder of "doc" models: each distinct token of the query with its own weight, whatever the
    other tokens are (sentence-transformers' SparseStaticEmbedding).

    Args:
        ids: token ids of a query, without special tokens around it, [n].
        weights: of each entry of the vocabulary, such as its IDF, [V].
    """
    found = np.unique(ids)
    values = weights[found].astype(np.float32)
    return Expansion(found[values > 0], values[values > 0])
