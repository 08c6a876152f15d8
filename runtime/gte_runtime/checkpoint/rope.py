"""Rotary position embedding (RoPE): the frequencies of this family, and the tables of cos and sin.

The frequencies of the NTK form are `(theta * factor)^(-2i/d) / factor^(2/d)`, with d the head size and i from
0 to d/2 - 1, at every position and for texts of every length. No other theta without the divisor gives the
same frequencies: ports of this model that only change theta are wrong. Dimension i of a head is paired with
i + d/2, as in GPT-NeoX.

Source: `NTKScalingRotaryEmbedding` in the model's published code,
https://huggingface.co/Alibaba-NLP/new-impl/blob/main/modeling.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Inverse frequencies `w_i = theta^(-2i/d) / divisor`, or the mixed form where `mixed` is set."""

    head_size: int
    theta: float
    divisor: float = 1.0
    mixed: tuple[float, float] | None = None
    """(a, b) of `w_i = theta^(-2i/d) / exp(a * (i+1)^b)`; no released model uses it."""

    @classmethod
    def ntk(cls, *, head_size: int, theta: float, factor: float, mixed_b: float | None = None) -> Rope:
        """Upstream's `rope_scaling: {type: ntk}`.

        Without `mixed_b`, theta is multiplied by the factor and the frequencies are divided by factor^(2/d).
        With it, theta stays as it is and the divisors are exp(a * (i+1)^b), with a = log(factor) / (d/2)^b.
        """
        if mixed_b is None:
            return cls(head_size=head_size, theta=theta * factor, divisor=factor ** (2 / head_size))
        a = float(np.log(factor)) / (head_size / 2) ** mixed_b
        return cls(head_size=head_size, theta=theta, mixed=(a, mixed_b))

    def frequencies(self) -> Float32:
        """The inverse frequencies, float32 [head_size / 2].

        Computed in float32 throughout, as upstream does, which gives the same bits. Computed in float64 and
        rounded, 18 of the model's 32 values would differ.
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
        """The tables of cos and sin, both float32 [positions, head_size / 2].

        The angle, position times frequency, is rounded to float32, as upstream does: at position 8192 this
        changes the cosine by up to 6e-4. Cosine and sine of the rounded angle are computed in float64, so
        that every machine writes the same bits.
        """
        angle = np.arange(positions, dtype=np.float32)[:, None] * self.frequencies()[None, :]
        exact = angle.astype(np.float64)
        return np.cos(exact).astype(np.float32), np.sin(exact).astype(np.float32)
