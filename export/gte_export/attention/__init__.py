"""One file per way to run attention. Each is a module that the encoder is given.

An attention owns the graph's inputs beside `input_ids`: its `inputs` name them with their dynamic
axes, `context` turns them into what `forward` needs in every layer, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor

Axes = Mapping[str, Mapping[int, str]]


class Attention(Protocol):
    """softmax(rope(q) rope(k)^T / sqrt(d)) v, on whatever shape of batch it is made for."""

    inputs: ClassVar[Axes]
    """Graph inputs in order, `input_ids` first, with the names of their dynamic axes."""
    outputs: ClassVar[Axes]

    def context(self, cos: Tensor, sin: Tensor, inputs: Mapping[str, Tensor]) -> Any:
        """What all layers share: masks, positions, index arrays."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, context: Any) -> Tensor:
        """Mix values. q, k and v are [.., .., H] before RoPE; so is the result."""

    def first_tokens(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """States of token 0 of every text, [B, H]."""

    def token_axes(self, per_token: Tensor) -> Tensor:
        """[.., .., 1] from the sparse head to the shape of the output `token_weights`."""


class TracedAttention(Attention, Protocol):
    """One that can stand in a graph."""

    def dummy_inputs(self, ids: int) -> list[dict[str, Tensor]]:
        """Batches to trace (the first) and to validate with, one for each way through; `ids` bounds the token ids."""
