"""ONNX Runtime's fused operators as PyTorch operators that can be run and exported.

The operators of the domain `com.microsoft` have no counterpart in PyTorch, and no optimizer finds all of them
in a traced graph, so the encoders call them directly. PyTorch runs the plain implementation, with which
graphs are compared; the symbol functions write the ONNX operator. They are registered operators, not
`autograd.Function`s, because only those can be called in a scripted `if`, which becomes an ONNX `If`.

Specification: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.onnx import symbolic_helper
from torch.onnx.utils import register_custom_op_symbolic

MASKED = -3.4028e38
"""The score of a masked key. The operator's default is -10000, which scores of real keys can exceed."""

LEVELS, ZERO = 127, 128
"""Activations are uint8 around a fixed zero point, since uint8 x int8 is the only pair of types with fast
kernels on every x86 processor."""

_library = torch.library.Library("gte", "DEF")
_library.define("rotary_embedding(Tensor x, Tensor positions, Tensor cos, Tensor sin, int heads) -> Tensor")
_library.define("quantize_rows(Tensor x, Tensor steps, Tensor zeros) -> Tensor")
_library.define("matmul_int8(Tensor x, Tensor weight, Tensor scale) -> Tensor")
_library.define(
    "packed_attention(Tensor q, Tensor k, Tensor v, Tensor token_offset, Tensor bounds, int heads) -> Tensor"
)
_library.define(
    "skip_layer_norm(Tensor x, Tensor skip, Tensor weight, Tensor beta, Tensor bias, float eps) -> Tensor"
)
_library.define("bias_split_gelu(Tensor x, Tensor bias) -> Tensor")
_library.define("multi_head_attention(Tensor q, Tensor k, Tensor v, Tensor? lengths, int heads) -> Tensor")


def rotary_embedding(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """RoPE on x [B, S, H]: dimension i of a head is paired with i + d/2.

    positions are [B, S], cos and sin [P, d/2].
    """
    split = x.unflatten(-1, (heads, -1))
    first, second = split.chunk(2, dim=-1)
    c, s = cos[positions].unsqueeze(2), sin[positions].unsqueeze(2)
    return torch.cat((first * c - second * s, second * c + first * s), -1).flatten(-2)


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, heads: int) -> Tensor:
    """Bidirectional attention on [B, S, H]. In text b, keys from position lengths[b] on are masked."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    mask = None
    if lengths is not None:
        valid = torch.arange(k.shape[2], device=k.device) < lengths[:, None]
        mask = torch.zeros_like(valid, dtype=q.dtype).masked_fill(~valid, MASKED)[:, None, None, :]
    return (
        torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)
    )


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, token_offset: Tensor, bounds: Tensor, heads: int
) -> Tensor:
    """Bidirectional attention within each text, on rows [T, H]. Texts begin and end at bounds [B + 1]."""
    texts = [slice(start, end) for start, end in itertools.pairwise(bounds.tolist())]
    return torch.cat(
        [multi_head_attention(q[None, text], k[None, text], v[None, text], None, heads)[0] for text in texts]
    )


def skip_layer_norm(
    x: Tensor, skip: Tensor, weight: Tensor, beta: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """LayerNorm of x + skip + bias, computed in float32."""
    total = x.float() + skip.float() + bias.float()
    return torch.nn.functional.layer_norm(total, weight.shape, weight.float(), beta.float(), eps).to(x.dtype)


def bias_split_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """a * gelu(b), with a and b the halves of x + bias along the last axis."""
    left, right = (x.float() + bias.float()).chunk(2, -1)
    return (left * torch.nn.functional.gelu(right)).to(x.dtype)


def quantize_rows(x: Tensor, steps: Tensor, zeros: Tensor) -> Tensor:
    """x [1, T, K] in steps [T], rounded half to even, as uint8 around `zeros` [T]."""
    return (torch.round(x / steps.reshape(1, -1, 1)) + zeros.reshape(1, -1, 1)).clamp(0, 255).to(torch.uint8)


def matmul_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """((x - ZERO) @ weight) * scale, with x uint8 [.., K], weight int8 [K, N] and scale float32 [N].

    The sums of products are exact, as in ONNX Runtime: float64 can represent them.
    """
    return ((x.double() - ZERO) @ weight.double()).float() * scale


_library.impl("packed_attention", packed_attention, "CompositeExplicitAutograd")
_library.impl("skip_layer_norm", skip_layer_norm, "CompositeExplicitAutograd")
_library.impl("bias_split_gelu", bias_split_gelu, "CompositeExplicitAutograd")
_library.impl("quantize_rows", quantize_rows, "CompositeExplicitAutograd")
_library.impl("matmul_int8", matmul_int8, "CompositeExplicitAutograd")
_library.impl("rotary_embedding", rotary_embedding, "CompositeExplicitAutograd")
_library.impl("multi_head_attention", multi_head_attention, "CompositeExplicitAutograd")


@symbolic_helper.parse_args("v", "v", "v", "v", "i")
def _rotary_symbol(g: Any, x: Any, positions: Any, cos: Any, sin: Any, heads: int) -> Any:
    # Without is_packed_batching, ONNX Runtime refuses batches of more tokens than the tables have rows.
    out = g.op(
        "com.microsoft::RotaryEmbedding", x, positions, cos, sin, num_heads_i=heads, is_packed_batching_i=1
    )
    out.setType(x.type())
    return out


@symbolic_helper.parse_args("v", "v", "v", "v", "i")
def _attention_symbol(g: Any, q: Any, k: Any, v: Any, lengths: Any, heads: int) -> Any:
    inputs = [q, k, v]
    if not lengths.node().mustBeNone():
        no_bias = g.op("prim::Constant")
        no_bias.setType(torch.OptionalType.ofTensor())
        inputs += [no_bias, lengths]
    out = g.op("com.microsoft::MultiHeadAttention", *inputs, num_heads_i=heads, mask_filter_value_f=MASKED)
    out.setType(q.type())
    return out


@symbolic_helper.parse_args("v", "v", "v", "v", "v", "i")
def _packed_attention_symbol(
    g: Any, q: Any, k: Any, v: Any, token_offset: Any, bounds: Any, heads: int
) -> Any:
    # Separate q, k and v without a bias: only for these FlashAttention runs at every length.
    no_bias = g.op("prim::Constant")
    no_bias.setType(torch.OptionalType.ofTensor())
    out = g.op(
        "com.microsoft::PackedMultiHeadAttention", q, k, v, no_bias, token_offset, bounds, num_heads_i=heads
    )
    out.setType(q.type())
    return out


@symbolic_helper.parse_args("v", "v", "v", "v", "v", "f")
def _skip_layer_norm_symbol(g: Any, x: Any, skip: Any, weight: Any, beta: Any, bias: Any, eps: float) -> Any:
    out = g.op("com.microsoft::SkipLayerNormalization", x, skip, weight, beta, bias, epsilon_f=eps)
    out.setType(skip.type())
    return out


@symbolic_helper.parse_args("v", "v")
def _bias_split_gelu_symbol(g: Any, x: Any, bias: Any) -> Any:
    out = g.op("com.microsoft::BiasSplitGelu", x, bias)
    out.setType(x.type().with_sizes([None, None, bias.type().varyingSizes()[0] // 2]))
    return out


@symbolic_helper.parse_args("v", "v", "v")
def _quantize_symbol(g: Any, x: Any, steps: Any, zeros: Any) -> Any:
    out = g.op("QuantizeLinear", x, steps, zeros, axis_i=1)
    out.setType(x.type().with_dtype(torch.uint8))
    return out


@symbolic_helper.parse_args("v", "v", "v")
def _matmul_int8_symbol(g: Any, x: Any, weight: Any, scale: Any) -> Any:
    one, zero = _constant(g, torch.tensor(1.0)), _constant(g, torch.tensor(ZERO, dtype=torch.uint8))
    out = g.op("com.microsoft::MatMulIntegerToFloat", x, weight, one, scale, zero)
    out.setType(x.type().with_dtype(torch.float32).with_sizes([None, None, weight.type().varyingSizes()[1]]))
    return out


def _constant(g: Any, value: Tensor) -> Any:
    return g.op("Constant", value_t=value)


OPSET = 20
"""The first opset with Gelu as one operator, and the last that the tracer used by optimum supports."""

register_custom_op_symbolic("gte::rotary_embedding", _rotary_symbol, 1)
register_custom_op_symbolic("gte::packed_attention", _packed_attention_symbol, 1)
register_custom_op_symbolic("gte::skip_layer_norm", _skip_layer_norm_symbol, 1)
register_custom_op_symbolic("gte::bias_split_gelu", _bias_split_gelu_symbol, 1)
register_custom_op_symbolic("gte::quantize_rows", _quantize_symbol, 1)
register_custom_op_symbolic("gte::matmul_int8", _matmul_int8_symbol, 1)
register_custom_op_symbolic("gte::multi_head_attention", _attention_symbol, 1)
