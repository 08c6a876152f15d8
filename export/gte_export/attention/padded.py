"""Attention in standard ONNX operators on a padded batch, for any ONNX host, such as TensorRT.

RoPE and attention are composed of basic operators, because TensorRT has no operator for either. The softmax
is computed in float32 also in float16 graphs. Memory grows with B x heads x S^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor, nn

from gte_runtime.format.architecture import Architecture

from . import Axes

Context = tuple[Tensor, Tensor, Tensor]


class PaddedAttention(nn.Module):
    """Attention of the portable variants, on texts padded to [B, S, H]."""

    inputs: ClassVar[Axes] = {
        "input_ids": {0: "batch", 1: "sequence"},
        "attention_mask": {0: "batch", 1: "sequence"},
    }
    outputs: ClassVar[Axes] = {
        "cls": {0: "batch"},
        "token_weights": {0: "batch", 1: "sequence"},
        "token_states": {0: "batch", 1: "sequence"},
    }

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.heads = a.heads

    def context(self, cos: Tensor, sin: Tensor, inputs: Mapping[str, Tensor]) -> Context:
        mask = inputs["attention_mask"]
        # Finite, so that a row in which everything is masked is not NaN. In float16 graphs -1e4, because a
        # host may run their softmax in float16, whose lowest number is -65504.
        lowest = -1e4 if cos.dtype == torch.float16 else torch.finfo(torch.float32).min
        bias = (1 - mask.float())[:, None, None, :] * lowest
        length = mask.shape[1]
        return cos[:length], sin[:length], bias

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        cos, sin, bias = context
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = (_rotate(q, cos, sin) / sqrt(q.shape[-1])) @ _rotate(k, cos, sin).transpose(2, 3)
        weights = torch.softmax(scores.float() + bias, dim=-1).to(v.dtype)
        return (weights @ v).transpose(1, 2).flatten(-2)

    def first_tokens(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return hidden[:, 0]

    def token_axes(self, per_token: Tensor) -> Tensor:
        return per_token.squeeze(-1)

    def dummy_inputs(self, ids: int) -> list[dict[str, Tensor]]:
        """As declared in `TracedAttention`."""
        tokens = torch.randint(0, ids, (2, 7))
        mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
        return [{"input_ids": tokens, "attention_mask": mask}]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
