"""The numbers that decide which graph fits a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from .values import Bounds


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


BOUNDS: Bounds = {
    (Architecture, "layers"): (1, 1000),
    (Architecture, "hidden_size"): (1, 2**16),
    (Architecture, "heads"): (1, 2**16),
    (Architecture, "intermediate_size"): (1, 2**20),
    (Architecture, "vocab_size"): (1, 2**24),
    (Architecture, "max_positions"): (1, 2**20),
    (Architecture, "layer_norm_eps"): (0, 1),
}
"""The least and the most of each number, far beyond any model of this family. They keep what is computed from
the numbers of an untrusted file, such as the size of a table, within what a machine can hold."""
