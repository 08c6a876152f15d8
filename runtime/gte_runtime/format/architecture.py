"""TODO"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The numbers of a config that a graph depends on. Two checkpoints that share them share their graphs.

    RoPE frequencies, the token-type row and the sparse head are absent on purpose: they are
    data to a graph. Their tensors always exist there, and hold zeros where a checkpoint has none.
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
        return self.hidden_size // self.heads
