"""Contrastive losses over a batch of pairs, and the distance to the teacher."""

from __future__ import annotations

import torch
from model import DIMS
from torch import Tensor
from torch.nn import functional as f

WEIGHTS = dict(zip(DIMS, (1, 3, 1, 2), strict=True))
"""{length of vectors that is trained: its weight}. The shorter ones lose quality first."""
TEMPERATURE = 0.05
LEXICAL_TEMPERATURE = 0.5
ALIKE = 0.9
"""Texts whose targets have at least this cosine are not negatives of each other."""


def aims(targets: Tensor, texts: Tensor) -> Tensor:
    """The targets of pairs, [pairs, H]: the mean of `targets` over a pair's `texts`, where -1 is none."""
    return f.normalize((targets[texts.clamp(min=0)] * (texts >= 0)[..., None]).sum(1))


def alike(aims: Tensor, first: Tensor) -> Tensor:
    """Which pairs have the same text, or almost, [pairs, pairs]."""
    return (aims @ aims.T > ALIKE) | (first[:, :, None] == first[:, None]).any(0)


def dense(a: Tensor, b: Tensor, same: Tensor) -> Tensor:
    """Contrastive loss: a text finds its partner among all texts of both sides, at every trained length.

    Negatives of the text's own language and of others alike: what a language has in common cannot
    help. `same` [N, N] marks pairs that share a text and are no negatives.
    """
    both = torch.cat([a, b])
    n = len(a)
    ignore = same.repeat(2, 2).fill_diagonal_(True)
    for side in (n, -n):
        ignore.diagonal(side).fill_(False)
    partner = torch.arange(2 * n, device=both.device).roll(n)
    total = both.new_zeros(())
    for dim in DIMS:
        rows = f.normalize(both[:, :dim])
        scores = (rows @ rows.T / TEMPERATURE).masked_fill(ignore, -1e9)
        total = total + WEIGHTS[dim] * f.cross_entropy(scores, partner)
    return total / sum(WEIGHTS.values())


def taught(rows: Tensor, targets: Tensor) -> Tensor:
    """1 - cosine to the target, at every trained length. A target of zeros is left out."""
    known = (targets.abs().sum(1) > 0).float()
    far = torch.stack(
        [
            weight * (1 - f.cosine_similarity(rows[:, :dim], targets[:, :dim]))
            for dim, weight in WEIGHTS.items()
        ]
    )
    return (far.sum(0) * known).sum() / known.sum().clamp(min=1) / sum(WEIGHTS.values())


def lexical(ids: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor], vocabulary: int) -> Tensor:
    """Contrastive loss of token weights: a title finds its text by the sparse score alone."""
    rows = []
    for tokens, values in zip(ids, weights, strict=True):
        kept = values * (tokens > 3)
        rows.append(kept.new_zeros(len(tokens), vocabulary).scatter_reduce(1, tokens, kept, "amax"))
    scores = rows[0] @ rows[1].T / LEXICAL_TEMPERATURE
    target = torch.arange(len(scores), device=scores.device)
    return (f.cross_entropy(scores, target) + f.cross_entropy(scores.T, target)) / 2


def plausible(ids: Tensor, scores: Tensor, rarity: Tensor) -> Tensor:
    """The distance of token scores, before ReLU, to their pieces' rarity: no weight may die or explode."""
    kept = (ids > 3).float()
    return ((scores - rarity[ids]).square() * kept).sum() / kept.sum()
