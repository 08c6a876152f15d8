"""The encoder in ONNX Runtime's fused operators for CUDA: 14 kernels a layer, in float16.

A sum and the norm after it are one operator. Up and gate are one product, whose halves another operator
multiplies. Activations have three axes, [1, T, H], so that no MatMul becomes a Gemm, which on CUDA adds its
bias by an extra product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from gte_runtime.format.architecture import Architecture

from .. import operators as operators  # registers torch.ops.gte
from ..attention import Attention
from ..layout import splits_in_one_kernel
from .float import Embeddings, Linear, Norm, Rope, TracedEncoder


class SkipNorm(Norm):
    """LayerNorm of the sum of a product, the product's bias and the residual."""

    def forward(self, product: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        y: Tensor = torch.ops.gte.skip_layer_norm(product, skip, self.weight, self.bias, bias, self.eps)
        return y


class PackedLayer(nn.Module):
    """As `float.Layer`, in fused operators."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        h, i = a.hidden_size, a.intermediate_size
        self.query, self.key, self.value = Linear(h, h), Linear(h, h), Linear(h, h, bias=False)
        self.inner = i
        self.output = Linear(h, h)
        self.attention_norm = SkipNorm(h, a.layer_norm_eps)
        self.up_gate = Linear(h, 2 * i, bias=False)
        self.down = Linear(i, h)
        self.mlp_norm = SkipNorm(h, a.layer_norm_eps)

    def forward(self, h: Tensor, attention: Attention, context: Any, no_bias: Tensor | None) -> Tensor:
        mixed = attention(self.query(h), self.key(h), self.value(h), context)
        h = self.attention_norm(mixed @ self.output.weight, h, self.output.bias)
        both = self.up_gate(h)
        if no_bias is None:
            up, gate = both.split([self.inner, self.inner], -1)
            product = up * f.gelu(gate)
        else:
            product = torch.ops.gte.bias_split_gelu(both, no_bias)
        return self.mlp_norm(product @ self.down.weight, h, self.down.bias)


class PackedEncoder(TracedEncoder):
    """The encoder of `cuda-fp16`."""

    def __init__(self, a: Architecture, attention: Attention) -> None:
        super().__init__(a, attention)
        self.embeddings = Embeddings(a)
        self.rope = Rope(a)
        # BiasSplitGelu requires a bias. Random while tracing, like every parameter; zeros in the weight file.
        self.no_bias = (
            nn.Parameter(torch.empty(2 * a.intermediate_size).normal_(std=0.02))
            if splits_in_one_kernel(a)
            else None
        )
        self.layers = nn.ModuleList(PackedLayer(a) for _ in range(a.layers))
        self.token_head = Linear(a.hidden_size, 1)

    def states(self, ids: Tensor, context: Any) -> Tensor:
        h: Tensor = self.embeddings(ids)
        for layer in self.layers:
            h = layer(h, self.attention, context, self.no_bias)
        return h
