"""Similarities and hybrid scores. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .arrays import Float32, Float64

SMALLEST_NORM = 1e-12
"""As torch.nn.functional.normalize: a zero vector stays zero."""


def cut_and_normalise(cls: Float32, dim: int | None = None) -> Float32:
    """The first `dim` values of each row, then L2-normalised: float32 [N, dim].

    In this order: a normalised vector that is cut afterwards is no unit vector.
    """
    cut = cls if dim is None else cls[:, :dim]
    norms = np.sqrt(np.einsum("ij,ij->i", cut, cut, dtype=np.float64))
    normalised: Float32 = (cut / np.maximum(norms, SMALLEST_NORM)[:, None]).astype(np.float32)
    return normalised


def lexical(query: Mapping[str, float], document: Mapping[str, float]) -> float:
    """Sum of products of weights over shared tokens: the paper's lexical matching score."""
    return sum(weight * document[token] for token, weight in query.items() if token in document)


def hybrid(dense: float, sparse: float, dense_weight: float, sparse_weight: float) -> float:
    """dense_weight x cosine + sparse_weight x lexical score.

    The authors' script defaults to 1.0 and 0.1, the model card uses 1.0 and 0.3, the paper searches
    sparse weights of 0.001 to 0.01.
    """
    return dense_weight * dense + sparse_weight * sparse


def hybrid_of_pairs(
    pairs: Sequence[tuple[int, int]],
    vectors: Float32,
    weights: Sequence[Mapping[str, float]],
    dense_weight: float,
    sparse_weight: float,
) -> Float64:
    """Hybrid scores of pairs of texts, float64 [N].

    Args:
        pairs: rows of query and document in `vectors` and `weights`.
        vectors: L2-normalised, [M, dim].
        weights: {decoded token: weight} of each text. Tokens are shared by their string, as in the authors' script.
        dense_weight: of the cosine; 0 leaves it out.
        sparse_weight: of the lexical score; 0 leaves it out, and nothing is read of `weights`.
    """
    scores = np.zeros(len(pairs))
    for row, (query, document) in enumerate(pairs):
        cosine = float(vectors[query] @ vectors[document]) if dense_weight else 0.0
        shared = lexical(weights[query], weights[document]) if sparse_weight else 0.0
        scores[row] = hybrid(cosine, shared, dense_weight, sparse_weight)
    return scores


def sigmoid(logits: Float32) -> Float32:
    """1 / (1 + exp(-x)), float32, without overflow on either side."""
    small = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
