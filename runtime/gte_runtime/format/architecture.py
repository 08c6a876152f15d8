"""The numbers that decide which graph fits a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The numbers of config.json that a graph depends on. Checkpoints with equal numbers share their graphs.

    RoPE frequencies, the token-type table and the sparse head are not among them: for a graph they are
    weights. Every graph has their tensors, which are filled with zeros where a checkpoint lacks the part.
    """

    layers: int
    hidden_size: int
    heads: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    layer_norm_eps: float

    @property
    def head_size(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.heads
