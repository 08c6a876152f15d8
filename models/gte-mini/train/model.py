"""The student: gte-multilingual-base's encoder with its checkpoint's own tensor names, padded, fast to train on a CPU.

`gte_export.encoder` holds the same maths for tracing; `gte build` proves the two agree through
the oracle. Only the first row's output of the last layer is needed for the dense vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as f

WIDTH, LAYERS, HEADS, INNER, VOCABULARY = 192, 3, 6, 512, 30000
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


def rope(length: int) -> tuple[Tensor, Tensor]:
    """cos and sin [S, d/2] of upstream's fixed NTK scaling, factor 8."""
    i = torch.arange(SIZE // 2).float()
    frequencies = (20000.0 * 8) ** (-2 * i / SIZE) / 8 ** (2 / SIZE)
    angles = torch.arange(length).float()[:, None] * frequencies
    return angles.cos(), angles.sin()


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

    def forward(self, h: Tensor, hidden: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (x.unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for x in self.qkv_proj(h).chunk(3, -1))
        weights = torch.softmax(_turn(q, table) @ _turn(k, table).transpose(-1, -2) * SIZE**-0.5 + hidden, -1)
        return self.o_proj((weights @ v).transpose(1, 2).flatten(2))


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

    def forward(self, h: Tensor, hidden: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        h = self.attn_ln(h + self.attention(h, hidden, table))
        return self.mlp_ln(h + self.mlp(h))


class Student(nn.Module):
    """[B, S] ids, padded on the right with 1 -> CLS states [B, H] and token weights [B, S]."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})
        self.classifier = nn.Linear(WIDTH, 1)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.where(ids == 1, -1e9, 0.0)[:, None, None, :]
        table, h = rope(ids.shape[1]), self.embeddings(ids)
        for layer in self.encoder["layer"]:
            h = layer(h, hidden, table)
        return h[:, 0], f.relu(self.classifier(h)[..., 0])
