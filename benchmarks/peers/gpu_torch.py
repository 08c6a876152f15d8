"""PyTorch on one device, in float16 on a GPU: the encoder that this project traces, with one kind of
attention.

`sdpa` pads and masks. `flash` packs texts for FlashAttention, from the package flash-attn or, without it,
from PyTorch 2.10 or newer (torch.nn.attention.varlen, on GPUs only). `compile` is `sdpa` through
torch.compile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention

from gte_export.encoders.float import Encoder
from gte_export.operators import rotary_embedding
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.format.architecture import Architecture
from peers.worker import Float32, padded, serve


class Masked(nn.Module):
    """Attention on [B, S, H] with padding masked; without padding there is no mask, so that the flash kernel
    is chosen."""

    inputs: ClassVar[Mapping[str, Any]] = {}
    outputs: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.heads = a.heads

    def context(self, cos: Tensor, sin: Tensor, inputs: Mapping[str, Tensor]) -> Any:
        mask = inputs.get("attention_mask")
        return cos, sin, inputs["position_ids"], None if mask is None else mask.bool()[:, None, None, :]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: Any) -> Tensor:
        cos, sin, positions, mask = context
        q, k = (rotary_embedding(t, positions, cos, sin, self.heads) for t in (q, k))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)

    def first_tokens(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return hidden[:, 0]

    def token_axes(self, per_token: Tensor) -> Tensor:
        return per_token.squeeze(-1)


class Varlen(Masked):
    """Attention on [1, T, H] within each text."""

    longest = 0
    """The longest text of the run. It is set from outside: reading it from `cu_seqlens` would wait for the
    GPU."""

    def context(self, cos: Tensor, sin: Tensor, inputs: Mapping[str, Tensor]) -> Any:
        bounds = inputs["cu_seqlens"]
        return cos, sin, inputs["position_ids"].unsqueeze(0), bounds, self.longest

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: Any) -> Tensor:
        cos, sin, positions, bounds, longest = context
        q, k = (rotary_embedding(t, positions, cos, sin, self.heads) for t in (q, k))
        q, k, v = (t[0].unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        return attend_varlen()(q, k, v, bounds, bounds, longest, longest).flatten(-2).unsqueeze(0)

    def first_tokens(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return embedding(inputs["cu_seqlens"][:-1], hidden[0])


@cache
def attend_varlen() -> Any:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn
    return flash_attn_varlen_func


class TorchOnDevice:
    def __init__(self, settings: dict[str, Any]) -> None:
        kind = settings["attention"]
        if kind == "flash" and settings["device"] == "cpu":
            raise ValueError("there is no varlen FlashAttention on a CPU")
        self._device = settings["device"]
        self._ragged = kind == "flash"
        dtype = torch.float16 if self._device == "cuda" else torch.float32
        with Checkpoint(Path(settings["checkpoint"]), ignore_unused=True) as opened:
            a = opened.config.architecture
            self._attention = (Varlen if self._ragged else Masked)(a)
            model = Encoder(a, self._attention).eval().load(opened)
        self._model: Any = model.to(self._device, dtype)
        if kind == "compile":
            self._model = torch.compile(self._model, dynamic=True)
        self.notes = {
            "attention": attend_varlen().__module__ if self._ragged else kind,
            "dtype": str(dtype),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        }

    @torch.inference_mode()
    def run(self, batch: Sequence[Sequence[int]]) -> Float32:
        out = self._model(
            **{name: torch.from_numpy(value).to(self._device) for name, value in self._inputs(batch).items()}
        )
        return out["cls"].cpu().numpy()

    def _inputs(self, batch: Sequence[Sequence[int]]) -> dict[str, Any]:
        if self._ragged:
            lengths = [len(ids) for ids in batch]
            self._attention.longest = max(lengths)
            return {
                "input_ids": np.concatenate([np.asarray(ids, np.int64) for ids in batch]),
                "position_ids": np.concatenate([np.arange(length) for length in lengths]),
                "cu_seqlens": np.cumsum([0, *lengths], dtype=np.int32),
            }
        ids, mask = padded(batch)
        inputs = {
            "input_ids": ids,
            "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy(),
        }
        return inputs if mask.all() else inputs | {"attention_mask": mask}


if __name__ == "__main__":
    serve(TorchOnDevice, ("torch", "flash-attn"))
