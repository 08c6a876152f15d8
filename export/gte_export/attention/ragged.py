"""ONNX Runtime's fused CPU operators on a ragged batch: concatenated texts, padded only inside attention.

The graph has two paths. The input `uniform` chooses one for each run:

- true: all texts have the same length. Their rows are reshaped to [B, S, H] and attention needs no mask. On
  the CPU, MultiHeadAttention uses its flash attention kernel only without a mask.
- false: `padded_index` gathers the rows into [B, S, H], keys beyond each length are masked, and `flat_index`
  takes the rows back. This needs memory for B x heads x S^2 scores.

The paths differ in the last bit. For a text to have the same bits in every batch, the caller must choose the
path by the text's own length, not by the batch it is in; `gte_runtime.inference.plan` does.
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

Context = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class RaggedAttention(nn.Module):
    """Attention of `cpu-fp32` and `cpu-int8`, on texts concatenated to [1, T, H]."""

    inputs: ClassVar[Axes] = {
        "input_ids": {0: "tokens"},
        "position_ids": {0: "tokens"},
        "cu_seqlens": {0: "texts_plus_one"},
        "padded_index": {0: "texts", 1: "longest"},
        "flat_index": {0: "tokens"},
        "uniform": {},
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
        bounds = inputs["cu_seqlens"]
        lengths = bounds[1:] - bounds[:-1]
        positions = inputs["position_ids"].unsqueeze(0)
        return cos, sin, positions, inputs["padded_index"], inputs["flat_index"], lengths, inputs["uniform"]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        cos, sin, positions, padded_index, flat_index, lengths, uniform = context
        q = torch.ops.gte.rotary_embedding(q, positions, cos, sin, self.heads)
        k = torch.ops.gte.rotary_embedding(k, positions, cos, sin, self.heads)
        mixed: Tensor = _attend(q, k, v, padded_index, flat_index, lengths, uniform, self.heads, self.width)
        return mixed

    def first_tokens(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return embedding(inputs["cu_seqlens"][:-1], hidden.reshape(-1, self.width))

    def token_axes(self, per_token: Tensor) -> Tensor:
        return per_token.reshape(-1)

    def dummy_inputs(self, ids: int) -> list[dict[str, Tensor]]:
        """As declared in `TracedAttention`: one batch for each path."""
        mixed = {
            "input_ids": torch.randint(0, ids, (8,)),
            "position_ids": torch.tensor([0, 1, 2, 0, 1, 2, 3, 4]),
            "cu_seqlens": torch.tensor([0, 3, 8], dtype=torch.int32),
            "padded_index": torch.tensor([[0, 1, 2, 0, 0], [3, 4, 5, 6, 7]]),
            "flat_index": torch.tensor([0, 1, 2, 5, 6, 7, 8, 9]),
            "uniform": torch.tensor(False),
        }
        uniform = {
            "input_ids": torch.randint(0, ids, (12,)),
            "position_ids": torch.arange(4).repeat(3),
            "cu_seqlens": torch.tensor([0, 4, 8, 12], dtype=torch.int32),
            "padded_index": torch.arange(12).reshape(3, 4),
            "flat_index": torch.arange(12),
            "uniform": torch.tensor(True),
        }
        return [mixed, uniform]


@torch.jit.script
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    padded_index: Tensor,
    flat_index: Tensor,
    lengths: Tensor,
    uniform: Tensor,
    heads: int,
    width: int,
) -> Tensor:
    """Attention by one path or the other, [1, T, H] in and out.

    Scripted rather than traced, so that the `if` becomes an ONNX `If`. It uses reshapes in place of squeezes,
    because for a tensor of unknown shape a squeeze would be exported as another `If`.
    """
    rows = [-1, width]
    if bool(uniform):
        texts = padded_index.shape[0]
        batch = [texts, -1, width]
        mixed = torch.ops.gte.multi_head_attention(
            q.reshape(batch), k.reshape(batch), v.reshape(batch), None, heads
        )
        out = mixed.reshape([1, -1, width])
    else:
        gathered = torch.ops.gte.multi_head_attention(
            embedding(padded_index, q.reshape(rows)),
            embedding(padded_index, k.reshape(rows)),
            embedding(padded_index, v.reshape(rows)),
            lengths,
            heads,
        )
        out = embedding(flat_index, gathered.reshape(rows)).unsqueeze(0)
    return out
