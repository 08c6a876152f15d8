"""The student: the encoder of gte-multilingual-base with the same tensor names, fast to train on a CPU.

`gte_export.encoders` holds the same maths for tracing; `gte build` proves the two agree through
the oracle.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as f

WIDTH, LAYERS, HEADS, INNER, VOCABULARY = 192, 3, 6, 512, 34000
DIMS = (32, 64, 128, 192)
SIZE = WIDTH // HEADS
EPS = 1e-12
CONFIG = {
    "architectures": ["NewModel", "NewForTokenClassification"],
    "model_type": "new",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
    "vocab_size": VOCABULARY,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "max_position_embeddings": 8192,
    "position_embedding_type": "rope",
    "rope_theta": 20000,
    "rope_scaling": {"type": "ntk", "factor": 8.0},
    "layer_norm_type": "layer_norm",
    "layer_norm_eps": EPS,
    "pack_qkv": True,
    "torch_dtype": "float16",
    "matryoshka_dimensions": list(DIMS),
    "notice": "gte-mini is a small model for trying out and for tests; its card says how good it is",
}


@cache
@torch.inference_mode(False)  # what is first made while looking at dev is used in training, too
def rope(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [S, d/2] of upstream's fixed NTK scaling, factor 8."""
    i = torch.arange(SIZE // 2).float()
    frequencies = (20000.0 * 8) ** (-2 * i / SIZE) / 8 ** (2 / SIZE)
    angles = torch.arange(length).float()[:, None] * frequencies
    return angles.cos().to(device), angles.sin().to(device)


def _turn(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = table
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.token_type_embeddings = nn.Embedding(1, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPS)
        nn.init.zeros_(self.token_type_embeddings.weight)

    def forward(self, ids: Tensor) -> Tensor:
        return self.LayerNorm(self.word_embeddings(ids) + self.token_type_embeddings.weight[0])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(WIDTH, 3 * WIDTH)
        self.o_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor, hidden: Tensor, table: tuple[Tensor, Tensor], rows: int | None) -> Tensor:
        """Attention, whose output is computed for the first `rows` tokens only, or for all."""
        weight, bias = self.qkv_proj.weight, self.qkv_proj.bias
        parts = (
            f.linear(h[:, :rows], weight[:WIDTH], bias[:WIDTH]),
            *f.linear(h, weight[WIDTH:], bias[WIDTH:]).chunk(2, -1),
        )
        q, k, v = (x.unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for x in parts)
        turned = _turn(q, (table[0][:rows], table[1][:rows]))
        if h.is_cuda:  # on a processor its backward in bfloat16 is slower than what follows
            q, k = (x.to(v.dtype) for x in (turned, _turn(k, table)))
            mixed = f.scaled_dot_product_attention(q, k, v, hidden.to(v.dtype))
        else:
            mixed = torch.softmax(turned @ _turn(k, table).transpose(-1, -2) * SIZE**-0.5 + hidden, -1) @ v
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up_gate_proj = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.down_proj = nn.Linear(INNER, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        up, gate = self.up_gate_proj(h).chunk(2, -1)
        return self.down_proj(up * f.gelu(gate))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(), Mlp()
        self.attn_ln, self.mlp_ln = nn.LayerNorm(WIDTH, EPS), nn.LayerNorm(WIDTH, EPS)
        nn.init.zeros_(self.attention.qkv_proj.bias)
        for last in (self.attention.o_proj, self.mlp.down_proj):
            nn.init.normal_(last.weight, std=0.002)
            nn.init.zeros_(last.bias)

    def forward(
        self, h: Tensor, hidden: Tensor, table: tuple[Tensor, Tensor], rows: int | None = None
    ) -> Tensor:
        h = self.attn_ln(h[:, :rows] + self.attention(h, hidden, table, rows))
        return self.mlp_ln(h + self.mlp(h))


class Student(nn.Module):
    """Ids [B, S], padded on the right with 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})
        self.classifier = nn.Linear(WIDTH, 1)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """CLS states [B, H] and token scores [B, S], which are the token weights before ReLU."""
        h = self.states(ids)
        return h[:, 0], self.classifier(h)[..., 0]

    def states(self, ids: Tensor) -> Tensor:
        """The last layer's states, [B, S, H]."""
        return self._states(ids, self.embeddings(ids), None)

    def cls(self, *parts: Tensor) -> Tensor:
        """CLS states [B, H] of parts with a padding of their own. The last layer computes no other rows."""
        flat = torch.cat([ids.flatten() for ids in parts])
        if flat.is_cuda:
            vectors = self.embeddings(flat)
        else:  # the gradient of the whole table costs more than the encoder
            present, rows = torch.unique(flat, return_inverse=True)
            vectors = f.embedding(rows, self.embeddings(present))
        hidden = zip(parts, vectors.split([ids.numel() for ids in parts]), strict=True)
        return torch.cat([self._states(ids, h.unflatten(0, ids.shape), 1)[:, 0] for ids, h in hidden])

    def _states(self, ids: Tensor, h: Tensor, rows: int | None) -> Tensor:
        hidden = torch.where(ids == 1, -1e9, 0.0)[:, None, None, :]
        table = rope(ids.shape[1], ids.device)
        *layers, last = self.encoder["layer"]
        for layer in layers:
            h = layer(h, hidden, table)
        return last(h, hidden, table, rows)
