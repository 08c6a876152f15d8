"""The first stage: token vectors and token scores, trained without an encoder and then copied into it.

A text is the weighted mean of its tokens' normed vectors. That is what the first layer computes for
the CLS row with values and output near identity, keys that read the score in the slowest rotation,
an output bias that takes the CLS token's own vector away, and every other block switched off. The
CLS and EOS tokens themselves get a vector that the keys score low.
"""

from __future__ import annotations

import torch
from model import EPS, HEADS, SIZE, VOCABULARY, WIDTH, Student
from torch import Tensor, nn
from torch.nn import functional as f

GAIN = 2.0
UNSEEN = 7.0
"""By how much the scores of CLS and EOS are below those of tokens."""
SHARPNESS = 0.3
"""Token weights start from 1 + this x score."""
FLATTEN = 0.25
"""Axes are divided by this power of their variance, because the teacher's first ones tell scripts and kinds
of text apart, not meanings."""


def axes(vectors: Tensor) -> Tensor:
    """The projection [384, WIDTH] of centred vectors [N, 384], strongest axes first."""
    variance, found = torch.linalg.eigh(vectors.T @ vectors / len(vectors))
    chosen = (found / variance.clamp(min=1e-9) ** FLATTEN).flip(1)[:, :WIDTH]
    return chosen / (vectors @ chosen).std()


class Static(nn.Module):
    """Token vectors that are the teacher's, projected, plus what `free` learns for each.

    Args:
        pieces: the teacher's vectors of all pieces, centred
        projection: from `axes`
    """

    def __init__(self, pieces: Tensor, projection: Tensor) -> None:
        super().__init__()
        self.register_buffer("pieces", pieces)
        self.projection = nn.Parameter(projection / (pieces @ projection).std())
        self.free = nn.Parameter(torch.zeros(VOCABULARY, WIDTH))
        self.score = nn.Parameter(torch.zeros(WIDTH))

    def table(self) -> Tensor:
        return self.pieces @ self.projection + self.free

    def forward(self, ids: Tensor) -> Tensor:
        """[B, S] ids -> [B, H]. LayerNorm undoes the weights' scale, so a weighted sum is the mean."""
        kept = ids > 2
        present, rows = torch.unique(ids[kept], return_inverse=True)
        vectors = f.layer_norm(self.pieces[present] @ self.projection + self.free[present], (WIDTH,), eps=EPS)
        weighted = vectors * (vectors @ self.score).exp()[:, None]
        lengths = kept.sum(1)
        return f.layer_norm(
            f.embedding_bag(rows, weighted, lengths.cumsum(0) - lengths, mode="sum"), (WIDTH,), eps=EPS
        )


@torch.no_grad()
def copy_into(student: Student, static: Static) -> None:
    """Make the student compute what the static model does."""
    table = f.layer_norm(static.table(), (WIDTH,), eps=EPS)
    _, found = torch.linalg.eigh(table.T @ table)
    axis = found[:, 1]  # the axis that tokens use least, but for the mean, which LayerNorm removes
    table -= (table @ axis)[:, None] * axis
    quiet = axis * WIDTH**0.5
    table[[0, 2]] = quiet
    student.embeddings.word_embeddings.weight.copy_(table)
    attention = student.encoder["layer"][0].attention
    qkv, bias = attention.qkv_proj.weight, attention.qkv_proj.bias
    slowest = torch.arange(HEADS) * SIZE + SIZE // 2 - 1
    qkv[: 2 * WIDTH].zero_()
    bias.zero_()
    bias[slowest] = SIZE**0.5
    qkv[WIDTH + slowest] = static.score - (UNSEEN + static.score @ quiet) / WIDTH * quiet
    qkv[2 * WIDTH :] = torch.eye(WIDTH)
    attention.o_proj.weight.copy_(GAIN * torch.eye(WIDTH))
    attention.o_proj.bias.copy_(-f.layer_norm(quiet, (WIDTH,), eps=EPS))
    student.classifier.weight.copy_(SHARPNESS * static.score[None])
    student.classifier.bias.fill_(1)
