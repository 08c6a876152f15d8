"""ONNX Runtime's PackedMultiHeadAttention, which exists only for CUDA: concatenated texts, without padding.

One path serves every length and every mix of lengths, so the graph has no branch, which CUDA graphs require.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from gte_runtime.format.architecture import Architecture

from .. import operators as operators  # registers torch.ops.gte
from . import Axes

Context = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class PackedAttention(nn.Module):
    """Attention of `cuda-fp16`, on texts concatenated to [1, T, H]."""

    inputs: ClassVar[Axes] = {
        "input_ids": {0: "tokens"},
        "position_ids": {0: "tokens"},
        "cu_seqlens": {0: "texts_plus_one"},
        "token_offset": {0: "texts", 1: "longest"},
    }
    outputs: ClassVar[Axes] = {
        "cls": {0: "texts"},
        "token_weights": {0: "tokens"},
        "token_states": {1: "tokens"},
    }

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.heads = a.heads
        self.width = a.hidden_size

    def context(self, cos: Tensor, sin: Tensor, inputs: Mapping[str, Tensor]) -> Context:
        return cos, sin, inputs["position_ids"].unsqueeze(0), inputs["token_offset"], inputs["cu_seqlens"]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """[1, T, H] in and out. The operator takes [T, H]; the reshapes around it copy nothing."""
        cos, sin, positions, token_offset, bounds = context
        q = torch.ops.gte.rotary_embedding(q, positions, cos, sin, self.heads)
        k = torch.ops.gte.rotary_embedding(k, positions, cos, sin, self.heads)
        q, k, v = (t.reshape(-1, self.width) for t in (q, k, v))
        mixed: Tensor = torch.ops.gte.packed_attention(q, k, v, token_offset, bounds, self.heads)
        return mixed.reshape(1, -1, self.width)

    def first_tokens(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return embedding(inputs["cu_seqlens"][:-1], hidden.reshape(-1, self.width))

    def token_axes(self, per_token: Tensor) -> Tensor:
        return per_token.reshape(-1)

    def dummy_inputs(self, ids: int) -> list[dict[str, Tensor]]:
        """As declared in `TracedAttention`. One text is empty, as hosts pad batches to fit a CUDA graph."""
        mixed = {
            "input_ids": torch.randint(0, ids, (8,)),
            "position_ids": torch.tensor([0, 1, 2, 0, 1, 2, 3, 4]),
            "cu_seqlens": torch.tensor([0, 0, 3, 8], dtype=torch.int32),
            "token_offset": torch.tensor(
                [[5, 6, 7, 10, 11], [12, 13, 14, 0, 1], [2, 3, 4, 8, 9]], dtype=torch.int32
            ),
        }
        return [mixed]
