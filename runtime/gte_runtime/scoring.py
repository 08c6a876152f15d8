"""Similarities and hybrid scores. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .arrays import Float32

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
