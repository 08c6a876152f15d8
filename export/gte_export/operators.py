"""ONNX Runtime's fused operators as PyTorch operators: a slow body to compare with, a symbol to trace.

`com.microsoft` operators have no PyTorch counterpart and no optimizer finds them in a traced graph,
so they are named here. As operators (not `autograd.Function`s) they may stand inside a scripted
`if`, which becomes an ONNX `If`.

Specification: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.onnx import symbolic_helper
from torch.onnx.utils import register_custom_op_symbolic

MASKED = -3.4028e38
"""The score of a masked key. The operator's own default is -10000, which large scores can reach."""

LEVELS, ZERO = 127, 128
"""uint8 activations around a fixed zero: the only pair with int8 weights for which every x86 has a fast kernel."""

_library = torch.library.Library("gte", "DEF")
_library.define("rotary_embedding(Tensor x, Tensor positions, Tensor cos, Tensor sin, int heads) -> Tensor")
_library.define("quantize_rows(Tensor x, Tensor steps, Tensor zeros) -> Tensor")
_library.define("matmul_int8(Tensor x, Tensor weight, Tensor scale) -> Tensor")
_library.define("multi_head_attention(Tensor q, Tensor k, Tensor v, Tensor? lengths, int heads) -> Tensor")


def rotary_embedding(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """RoPE on [B, S, H] with dimension i of a head paired with i + d/2. positions is [B, S], the tables [P, d/2]."""
    split = x.unflatten(-1, (heads, -1))
    first, second = split.chunk(2, dim=-1)
    c, s = cos[positions].unsqueeze(2), sin[positions].unsqueeze(2)
    return torch.cat((first * c - second * s, second * c + first * s), -1).flatten(-2)


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, heads: int) -> Tensor:
    """Bidirectional attention on [B, S, H]; keys at and beyond `lengths` [B] are masked."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    mask = None
    if lengths is not None:
        valid = torch.arange(k.shape[2], device=k.device) < lengths[:, None]
        mask = torch.zeros_like(valid, dtype=q.dtype).masked_fill(~valid, MASKED)[:, None, None, :]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)


def quantize_rows(x: Tensor, steps: Tensor, zeros: Tensor) -> Tensor:
    """[1, T, K] to uint8 around `zeros` [T] in steps [T], half to even."""
    return (torch.round(x / steps.reshape(1, -1, 1)) + zeros.reshape(1, -1, 1)).clamp(0, 255).to(torch.uint8)


def matmul_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """(x - ZERO) @ weight x scale: uint8 [.., K] and int8 [K, N], float32 [N]. Sums are exact: float64 holds them."""
    return ((x.double() - ZERO) @ weight.double()).float() * scale


_library.impl("quantize_rows", quantize_rows, "CompositeExplicitAutograd")
_library.impl("matmul_int8", matmul_int8, "CompositeExplicitAutograd")
_library.impl("rotary_embedding", rotary_embedding, "CompositeExplicitAutograd")
_library.impl("multi_head_attention", multi_head_attention, "CompositeExplicitAutograd")


@symbolic_helper.parse_args("v", "v", "v", "v", "i")
def _rotary_symbol(g: Any, x: Any, positions: Any, cos: Any, sin: Any, heads: int) -> Any:
    # is_packed_batching: without it ONNX Runtime refuses more tokens than the tables have rows.
    out = g.op("com.microsoft::RotaryEmbedding", x, positions, cos, sin, num_heads_i=heads, is_packed_batching_i=1)
    out.setType(x.type())
    return out


@symbolic_helper.parse_args("v", "v", "v", "v", "i")
def _attention_symbol(g: Any, q: Any, k: Any, v: Any, lengths: Any, heads: int) -> Any:
    inputs = [q, k, v]
    if not symbolic_helper._is_none(lengths):
        no_bias = g.op("prim::Constant")
        no_bias.setType(torch._C.OptionalType.ofTensor())
        inputs += [no_bias, lengths]
    out = g.op("com.microsoft::MultiHeadAttention", *inputs, num_heads_i=heads, mask_filter_value_f=MASKED)
    out.setType(q.type())
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
    out.setType(x.type().with_dtype(torch.float32).with_sizes([None, None, symbolic_helper._get_tensor_sizes(weight)[1]]))
    return out


def _constant(g: Any, value: Tensor) -> Any:
    return g.op("Constant", value_t=value)


OPSET = 20
"""The first in which Gelu is one operator, and the last of the tracer that optimum drives."""

register_custom_op_symbolic("gte::rotary_embedding", _rotary_symbol, 1)
register_custom_op_symbolic("gte::quantize_rows", _quantize_symbol, 1)
register_custom_op_symbolic("gte::matmul_int8", _matmul_int8_symbol, 1)
register_custom_op_symbolic("gte::multi_head_attention", _attention_symbol, 1)
