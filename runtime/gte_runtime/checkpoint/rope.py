"""Rotary position embedding: the frequencies of this family and their tables.

The one place where ports of this model go wrong. No single theta reproduces its NTK form:
the published frequencies are `(theta * factor)^(-2i/d) / factor^(2/d)`, at every position and
for every length of text. Pairs are (i, i + d/2), as in GPT-NeoX.

Source: upstream `NTKScalingRotaryEmbedding`, as written down in the project's notes on the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """`w_i = theta^(-2i/d) / divisor`, or the mixed form when `mixed` is set."""

    head_size: int
    theta: float
    divisor: float = 1.0
    mixed: tuple[float, float] | None = None
    """(a, b) of `w_i = theta^(-2i/d) / exp(a * (i+1)^b)`; no released model uses it."""

    @classmethod
    def ntk(cls, *, head_size: int, theta: float, factor: float, mixed_b: float | None = None) -> Rope:
        """Upstream's `rope_scaling: {type: ntk}`. Only without `mixed_b` is theta multiplied by the factor."""
        if mixed_b is None:
            return cls(head_size=head_size, theta=theta * factor, divisor=factor ** (2 / head_size))
        a = float(np.log(factor)) / (head_size / 2) ** mixed_b
        return cls(head_size=head_size, theta=theta, mixed=(a, mixed_b))

    def frequencies(self) -> Float32:
        """Inverse frequencies, float32 [head_size / 2].

        In float32 throughout, which reproduces upstream's table bit for bit; float64 rounded at
        the end differs in 18 of the model's 32 values.
        """
        exponents = np.arange(0, self.head_size, 2, dtype=np.float32) / np.float32(self.head_size)
        plain: Float32 = np.float32(1) / np.power(np.float32(self.theta), exponents, dtype=np.float32)
        if self.mixed is not None:
            a, b = self.mixed
            ordinal = np.arange(1, self.head_size // 2 + 1, dtype=np.float32)
            scaled: Float32 = plain / np.exp(np.float32(a) * ordinal ** np.float32(b), dtype=np.float32)
            return scaled
        divided: Float32 = plain / np.float32(self.divisor)
        return divided

    def tables(self, positions: int) -> tuple[Float32, Float32]:
        """cos and sin, float32 [positions, head_size / 2].

        The angle is a float32 product as upstream's is: that, not the cosine, decides the value
        at positions in the thousands (6e-4 at 8192). Cosine and sine are then taken in float64, so
        that every machine writes the same bits.
        """
        angle = np.arange(positions, dtype=np.float32)[:, None] * self.frequencies()[None, :]
        exact = angle.astype(np.float64)
        return np.cos(exact).astype(np.float32), np.sin(exact).astype(np.float32)
