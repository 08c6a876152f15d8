"""The ways to run attention, a file for each. An encoder takes one of them as a module.

The attention decides which inputs a graph has: `inputs` names them with their dynamic axes, and `context`
converts them, once for all layers, into what `forward` needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor

Axes = Mapping[str, Mapping[int, str]]


class Attention(Protocol):
    """softmax(rope(q) rope(k)^T / sqrt(d)) v for one kind of batch: padded, ragged or packed."""

    inputs: ClassVar[Axes]
    """Graph inputs in order, `input_ids` first, with the names of their dynamic axes."""
    outputs: ClassVar[Axes]
    """Outputs of an embedding model's graph, in order, with the names of their dynamic axes."""

    def context(self, cos: Tensor, sin: Tensor, inputs: Mapping[str, Tensor]) -> Any:
        """What all layers share: masks, positions, index arrays. cos and sin are the RoPE tables [P, d/2]."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, context: Any) -> Tensor:
        """Attention of all heads. q, k and v are [.., .., H], before RoPE; the result has the same shape."""

    def first_tokens(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The states of the first token of every text, [B, H]."""

    def token_axes(self, per_token: Tensor) -> Tensor:
        """The sparse head's output [.., .., 1] in the shape of the graph's output `token_weights`."""


class TracedAttention(Attention, Protocol):
    """An attention that can be traced."""

    def dummy_inputs(self, ids: int) -> list[dict[str, Tensor]]:
        """Batches of random token ids below `ids`, one for each path through the graph.

        The first is used for tracing, all of them for the comparison with PyTorch.
        """
