"""PyTorch's own fused attention, on texts of one length. Benchmarks compare with it; it is never traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from gte_runtime.format.architecture import Architecture

from ..operators import rotary_embedding
from . import Axes

Context = tuple[Tensor, Tensor, Tensor]


class SdpaAttention(nn.Module):
    """Attention on texts of one length, [B, S, H]."""

    inputs: ClassVar[Axes] = {
        "input_ids": {0: "batch", 1: "sequence"},
        "position_ids": {0: "batch", 1: "sequence"},
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
        return cos, sin, inputs["position_ids"]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        cos, sin, positions = context
        q, k = (rotary_embedding(t, positions, cos, sin, self.heads) for t in (q, k))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)

    def first_tokens(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return hidden[:, 0]

    def token_axes(self, per_token: Tensor) -> Tensor:
        return per_token.squeeze(-1)
