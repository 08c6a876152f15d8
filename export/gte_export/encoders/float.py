"""The encoder of gte-multilingual-base and its family in float32 or float16, with its heads.

Post-LayerNorm, GeGLU, RoPE, CLS pooling. It computes what the model's published code computes, but is written
differently in three points:

- Weights are parameters in [in, out] orientation, used as `x @ w`. Traced, they keep their names and the
  graph has no Transpose.
- Query, key, value, up and gate are separate products: ONNX Runtime's Split costs more than a larger product
  saves.
- There is no value bias. Attention weights sum to one, so it is folded into the output bias.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.format.architecture import Architecture

from ..attention import Attention, Axes


def _random(*shape: int) -> nn.Parameter:
    """A random parameter. Not zeros or ones, because the tracer merges parameters with equal values."""
    return nn.Parameter(torch.empty(*shape).normal_(std=0.02))


class Norm(nn.Module):
    """LayerNorm, whose statistics PyTorch computes in float32, as the kernels of ONNX Runtime do."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width).normal_(mean=1, std=0.1))
        self.bias = _random(width)
        self.shape = (width,)  # not taken from x.shape, which would be traced as a tensor
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return f.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class Linear(nn.Module):
    """x @ weight + bias, weight [in, out]."""

    def __init__(self, wide: int, out: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = _random(wide, out)
        self.bias = _random(out) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Embeddings(nn.Module):
    """LayerNorm of word row plus token-type row."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.word = _random(a.vocab_size, a.hidden_size)
        self.token_type = _random(a.hidden_size)
        self.norm = Norm(a.hidden_size, a.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        rows = f.embedding(ids, self.word)
        return self.norm(rows.to(self.token_type.dtype) + self.token_type)


class Layer(nn.Module):
    """Attention and GeGLU, each added to its input before a norm."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        h = a.hidden_size
        self.query, self.key, self.value = Linear(h, h), Linear(h, h), Linear(h, h, bias=False)
        self.output = Linear(h, h)
        self.attention_norm = Norm(h, a.layer_norm_eps)
        self.up, self.gate = (
            Linear(h, a.intermediate_size, bias=False),
            Linear(h, a.intermediate_size, bias=False),
        )
        self.down = Linear(a.intermediate_size, h)
        self.mlp_norm = Norm(h, a.layer_norm_eps)

    def forward(self, h: Tensor, attention: Attention, context: Any) -> Tensor:
        mixed = attention(self.query(h), self.key(h), self.value(h), context)
        h = self.attention_norm(h + self.output(mixed))
        return self.mlp_norm(h + self.down(f.gelu(self.gate(h)) * self.up(h)))


class PairHead(nn.Module):
    """The head of a reranker: one logit from the state of the first token."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.pooler = Linear(a.hidden_size, a.hidden_size)
        self.logit = Linear(a.hidden_size, 1)

    def forward(self, first: Tensor) -> Tensor:
        """[B, H] to [B]."""
        # Three axes; see TracedEncoder.forward.
        out: Tensor = self.logit(torch.tanh(self.pooler(first.unsqueeze(0))))
        return out.reshape(-1)


class Rope(nn.Module):
    """cos and sin [P, d/2]. They are parameters, so that they are in a weight file like any other weight."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.cos = _random(a.max_positions, a.head_size // 2)
        self.sin = _random(a.max_positions, a.head_size // 2)


class TracedEncoder(nn.Module):
    """Base of the encoders: from token ids to the outputs of a graph.

    An embedding model has `cls` [B, H], not normalised, `token_weights`, one per token after ReLU, and
    `token_states`, the states of all tokens after the last layer. A reranker has `logits` [B]. All are
    float32 but `token_states`, which keep the type of the layers: this output is computed anyway, while a
    conversion would take time in every run, wanted or not.

    The attention decides which inputs there are and how texts are laid out in a batch; the subclass decides
    in which types the layers compute.
    """

    rope: Rope
    token_head: Linear | None
    pair_head: PairHead | None

    def __init__(self, a: Architecture, attention: Attention) -> None:
        super().__init__()
        self.architecture = a
        self.attention = attention
        self.pair_head = None

    def as_reranker(self) -> Self:
        """Replace the sparse head by a pair head, and return the encoder."""
        self.token_head, self.pair_head = None, PairHead(self.architecture)
        return self

    @property
    def outputs(self) -> Axes:
        """Graph outputs with the names of their dynamic axes."""
        return (
            self.attention.outputs
            if self.pair_head is None
            else {"logits": {0: self.attention.outputs["cls"][0]}}
        )

    def states(self, ids: Tensor, context: Any) -> Tensor:
        """States of all tokens after the last layer, [.., T, H]; ids are [.., T]."""
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        padded_index: Tensor | None = None,
        flat_index: Tensor | None = None,
        uniform: Tensor | None = None,
        token_offset: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run the encoder on the inputs that its attention names. optimum reads the names of all here."""
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "cu_seqlens": cu_seqlens,
            "padded_index": padded_index,
            "flat_index": flat_index,
            "uniform": uniform,
            "token_offset": token_offset,
        }
        inputs = {name: value for name, value in given.items() if value is not None}
        context = self.attention.context(self.rope.cos, self.rope.sin, inputs)
        # A ragged batch is [1, T, H]: with two axes, MatMul and Add would become a Gemm.
        h = self.states(input_ids if input_ids.dim() == 2 else input_ids.unsqueeze(0), context)
        if self.pair_head is not None:
            return {"logits": self.pair_head(self.attention.first_tokens(h, inputs)).float()}
        assert self.token_head is not None
        weights = self.attention.token_axes(f.relu(self.token_head(h)))
        return {
            "cls": self.attention.first_tokens(h, inputs).float(),
            "token_weights": weights.float(),
            "token_states": h,
        }


class Encoder(TracedEncoder):
    """In float32 or float16."""

    def __init__(self, a: Architecture, attention: Attention) -> None:
        super().__init__(a, attention)
        self.embeddings = Embeddings(a)
        self.rope = Rope(a)
        self.layers = nn.ModuleList(Layer(a) for _ in range(a.layers))
        self.token_head = Linear(a.hidden_size, 1)

    def states(self, ids: Tensor, context: Any) -> Tensor:
        h: Tensor = self.embeddings(ids)
        for layer in self.layers:
            h = layer(h, self.attention, context)
        return h

    def load(self, checkpoint: Checkpoint) -> Encoder:
        """Copy a checkpoint's weights. A token-type row or sparse head that it lacks becomes zeros."""

        def read(name: str) -> Tensor:
            return torch.from_numpy(checkpoint.read(name))

        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith("rope."):
                    table = checkpoint.config.rope.tables(self.architecture.max_positions)[name == "rope.sin"]
                    value = torch.from_numpy(np.ascontiguousarray(table))
                elif name == "embeddings.token_type":
                    value = read(name)[0] if name in checkpoint else torch.zeros_like(parameter)
                elif name not in checkpoint:
                    value = torch.zeros_like(parameter)
                else:
                    value = read(name)
                    if value.dim() == 2 and name != "embeddings.word":
                        value = value.T
                parameter.copy_(value)
            for n in range(self.architecture.layers):
                at = f"layers.{n}"
                folded = (
                    read(f"{at}.output.bias").double()
                    + read(f"{at}.output.weight").double() @ read(f"{at}.value.bias").double()
                )
                self.get_parameter(f"{at}.output.bias").copy_(folded)
        return self
