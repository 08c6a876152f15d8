"""The encoder with int8 products: weights are rounded per output channel, activations per token.

A token's scale is its own largest value, so its result does not depend on other tokens in the batch. An
elementwise pass over the activations takes about a tenth of the time of a product, so there are few passes:

- The row scale of `up` is left out. Its product with the gate is rounded next, and there a factor of a whole
  row only changes that row's scale.
- Each norm is computed twice from the same sum: once divided by the factors of `gte_runtime.building.int8`,
  as the input of products, and once with the bias of the product that will be added to it. So neither the
  division nor the bias needs a pass of its own, which would take longer than the second norm.
- There is no value bias (it is folded into the output bias), and the operator of the product multiplies by
  the column scales.
- QuantizeLinear takes a step for each row, so there is no division before it.

The embedding table is int8 with a factor for each row and for each column.

A second form is for checkpoints in which a few channels have many times the values of the others. There the
rounding errors of int8 products are largest in just those channels, on which the result depends most. So
`outliers` channels of each activation go through a narrow float32 product in addition to the int8 one
(LLM.int8, Dettmers et al. 2022, https://arxiv.org/abs/2208.07339), and as many columns of each product that
is added before a norm are computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from gte_runtime.format.architecture import Architecture

from .. import operators as operators  # registers torch.ops.gte
from ..attention import Attention
from .float import Linear, Norm, Rope, TracedEncoder

TRACED = 63
"""The largest random weight while tracing. Larger ones would fail optimum's comparison with PyTorch on
processors whose int8 kernels add two products in 16 bits, which can overflow."""

SMALLEST = 1e-10
"""The smallest scale of a row, so that a row of zeros is not divided by zero."""


class Outliers(nn.Module):
    """The part of an activation [1, T, K] that stays in float32: `count` numbers of each row, x @ select.

    The columns of `select` [K, count] are unit vectors, which copy a channel, or columns of the weight of the
    product that reads the activation. `inner` [K] is 0 for the channels that are copied, which are not
    rounded to int8, and 1 for the others. See `outlier_mask` and `outlier_select` in
    `gte_runtime.building.transforms`.
    """

    def __init__(self, wide: int, count: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.empty(wide).uniform_(0.5, 1))
        self.select = nn.Parameter(torch.empty(wide, count).normal_(std=0.02))


class Rows:
    """An activation that is rounded per token.

    `values` [1, T, K] are uint8 around ZERO, `scale` [1, T, 1] is the largest value of each row, and `beside`
    [1, T, count] is the part that stays in float32, divided by the scale; None without `outliers`. The
    argument `zeros` is [T], ZERO for each row.
    """

    def __init__(self, x: Tensor, zeros: Tensor, outliers: Outliers | None) -> None:
        inner = x if outliers is None else x * outliers.inner
        self.scale = inner.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
        self.values = torch.ops.gte.quantize_rows(
            inner, self.scale.reshape(-1) * (1 / operators.LEVELS), zeros
        )
        self.beside = None if outliers is None else x @ outliers.select / self.scale


class Int8Linear(nn.Module):
    """rows @ weight x scale, with the weight int8 [in, out] and a scale for each column.

    The result lacks the row scale, by which the caller multiplies. `beside` [count, out] is the weight for
    the part of the rows that stays in float32; None where `beside` is 0.
    """

    def __init__(self, wide: int, out: int, beside: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.randint(-TRACED, TRACED + 1, (wide, out), dtype=torch.int8), requires_grad=False
        )
        self.scale = nn.Parameter(torch.empty(out).uniform_(0.5, 1) * 0.03 / 127 / TRACED)
        self.beside = nn.Parameter(torch.empty(beside, out).normal_(std=0.02)) if beside else None

    def forward(self, rows: Rows) -> Tensor:
        y: Tensor = torch.ops.gte.matmul_int8(rows.values, self.weight, self.scale)
        return y if self.beside is None or rows.beside is None else y + rows.beside @ self.beside


class BiasedInt8Linear(Int8Linear):
    """The product times the row scale, plus a bias."""

    def __init__(self, wide: int, out: int, beside: int) -> None:
        super().__init__(wide, out, beside)
        self.bias = nn.Parameter(torch.empty(out).normal_(std=0.02))

    def forward(self, rows: Rows) -> Tensor:
        return super().forward(rows) * rows.scale + self.bias


class Int8Embeddings(nn.Module):
    """Word row plus token-type row. The norm after it is in the first layer."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.word = nn.Parameter(
            torch.randint(-127, 128, (a.vocab_size, a.hidden_size), dtype=torch.int8), requires_grad=False
        )
        self.rows = nn.Parameter(torch.empty(a.vocab_size, 1).uniform_(0.5, 1) / 127)
        self.columns = nn.Parameter(torch.empty(a.hidden_size).uniform_(0.5, 1))
        self.token_type = nn.Parameter(torch.empty(a.hidden_size).normal_(std=0.02))

    def forward(self, ids: Tensor) -> Tensor:
        return (
            f.embedding(ids, self.word).float() * f.embedding(ids, self.rows) * self.columns + self.token_type
        )


class Int8Layer(nn.Module):
    """From the sum before a layer's first norm to the sum before the next layer's."""

    def __init__(self, a: Architecture, outliers: int) -> None:
        super().__init__()
        h, i = a.hidden_size, a.intermediate_size
        self.attention_input, self.attention_residual = Norm(h, a.layer_norm_eps), Norm(h, a.layer_norm_eps)
        self.query, self.key = BiasedInt8Linear(h, h, outliers), BiasedInt8Linear(h, h, outliers)
        self.value = Int8Linear(h, h, outliers)
        self.output = Int8Linear(h, h, 2 * outliers)
        self.mlp_input, self.mlp_residual = Norm(h, a.layer_norm_eps), Norm(h, a.layer_norm_eps)
        self.gate, self.up = Int8Linear(h, i, outliers), Int8Linear(h, i, outliers)
        self.down = Int8Linear(i, h, 2 * outliers)
        widths = {
            "attention": (h, outliers),
            "mix": (h, 2 * outliers),
            "mlp": (h, outliers),
            "product": (i, 2 * outliers),
        }
        self.outliers = nn.ModuleDict(
            {place: Outliers(*width) for place, width in widths.items()} if outliers else {}
        )

    def forward(self, z: Tensor, attention: Attention, context: Any, zeros: Tensor) -> Tensor:
        x = self._rows("attention", self.attention_input(z), zeros)
        mixed = self._rows(
            "mix", attention(self.query(x), self.key(x), self.value(x) * x.scale, context), zeros
        )
        z = self.output(mixed) * mixed.scale + self.attention_residual(z)
        x = self._rows("mlp", self.mlp_input(z), zeros)
        product = self._rows("product", f.gelu(self.gate(x) * x.scale) * self.up(x), zeros)
        return self.down(product) * (product.scale * x.scale) + self.mlp_residual(z)

    def _rows(self, place: str, x: Tensor, zeros: Tensor) -> Rows:
        return Rows(x, zeros, self.outliers[place] if len(self.outliers) else None)  # type: ignore[arg-type]


class Int8Encoder(TracedEncoder):
    """The encoder of `cpu-int8`, with `outliers` channels of each activation in float32; 0 for none."""

    def __init__(self, a: Architecture, attention: Attention, outliers: int = 0) -> None:
        super().__init__(a, attention)
        self.embeddings = Int8Embeddings(a)
        self.rope = Rope(a)
        self.layers = nn.ModuleList(Int8Layer(a, outliers) for _ in range(a.layers))
        self.last_norm = Norm(a.hidden_size, a.layer_norm_eps)
        self.token_head = Linear(a.hidden_size, 1)

    def states(self, ids: Tensor, context: Any) -> Tensor:
        z = self.embeddings(ids)
        zeros = (ids.reshape(-1) * 0 + operators.ZERO).to(torch.uint8)
        for layer in self.layers:
            z = layer(z, self.attention, context, zeros)
        h: Tensor = self.last_norm(z)
        return h
