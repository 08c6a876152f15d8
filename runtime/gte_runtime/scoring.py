"""Similarities and hybrid scores of finished vectors and weights. Pure: this module knows no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import Float32, Float64
from .errors import ConfigError

SMALLEST_NORM = 1e-12
"""Smaller norms count as this one, as in torch.nn.functional.normalize, so that a zero vector stays zero."""


def cut_and_normalise(cls: Float32, dim: int | None = None) -> Float32:
    """The first `dim` values of each row, L2-normalised after the cut: float32 [N, dim].

    Cutting a normalised vector would give a shorter one than a unit vector.
    """
    cut = cls if dim is None else cls[:, :dim]
    norms = np.sqrt(np.einsum("ij,ij->i", cut, cut, dtype=np.float64))
    normalised: Float32 = (cut / np.maximum(norms, SMALLEST_NORM)[:, None]).astype(np.float32)
    return normalised


def cut(cls: Float32, dim: int | None, normalise: bool) -> Float32:
    """The first `dim` values of each row, [N, dim], L2-normalised after the cut if `normalise`."""
    return cut_and_normalise(cls, dim) if normalise else np.ascontiguousarray(cls[:, :dim])


def euclidean(a: Float32, b: Float32) -> Float32:
    """The negated Euclidean distance along the last axis."""
    return np.asarray(-np.sqrt(np.square(a - b).sum(axis=-1)), np.float32)


def manhattan(a: Float32, b: Float32) -> Float32:
    """The negated sum of absolute differences along the last axis."""
    return np.asarray(-np.abs(a - b).sum(axis=-1), np.float32)


DISTANCES: dict[str, Callable[[Float32, Float32], Float32]] = {"euclidean": euclidean, "manhattan": manhattan}


def each_with_each(name: str, a: Float32, b: Float32) -> Float32:
    """Similarities of every row with every row: [N, M] for a [N, dim] and b [M, dim].

    `name` is one of `manifest.SIMILARITIES`; larger is more similar, so distances are negated. They are
    computed from differences, row by row, since the usual formula with products loses small distances to
    rounding.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    if name in DISTANCES:
        rows: list[Any] = [DISTANCES[name](row, b) for row in a]
        return np.stack(rows) if rows else np.zeros((0, len(b)), np.float32)
    if name == "cosine":
        a, b = cut_and_normalise(a), cut_and_normalise(b)
    return np.asarray(a @ b.T, np.float32)


def pairwise(name: str, a: Float32, b: Float32) -> Float32:
    """Similarities of row i with row i: [N] for a and b [N, dim]; a scalar for two vectors."""
    if name in DISTANCES:
        return DISTANCES[name](a, b)
    if name == "cosine":
        a, b = (cut_and_normalise(np.atleast_2d(rows)).reshape(rows.shape) for rows in (a, b))
    return np.asarray((a * b).sum(axis=-1), np.float32)


def lexical(query: Mapping[str, float], document: Mapping[str, float]) -> float:
    """Sum over shared tokens of the products of their weights: the lexical matching score of the paper
    (https://arxiv.org/abs/2407.19669)."""
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
        pairs: row of the query and row of the document, in `vectors` and in `weights`.
        vectors: dense vectors of M texts, L2-normalised, [M, dim].
        weights: {decoded token: weight} for each text. Tokens with the same string are shared, as in the
            authors' script. Not read where `sparse_weight` is 0.
        dense_weight: factor of the cosine; with 0 it is not computed.
        sparse_weight: factor of the lexical score; with 0 it is not computed.
    """
    scores = np.zeros(len(pairs))
    for row, (query, document) in enumerate(pairs):
        cosine = float(vectors[query] @ vectors[document]) if dense_weight else 0.0
        shared = lexical(weights[query], weights[document]) if sparse_weight else 0.0
        scores[row] = hybrid(cosine, shared, dense_weight, sparse_weight)
    return scores


def sigmoid(logits: Float32) -> Float32:
    """1 / (1 + exp(-x)), float32 [N]. It overflows for no x."""
    small = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def check_weight(value: object, name: str) -> float:
    """A weight of a hybrid score. Raises ConfigError for anything but a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not np.isfinite(value):
        raise ConfigError(f"{name} is {str(value)[:40]}; expected a finite number")
    return float(value)
