"""Makes the stand-in checkpoint: random weights, a real tokenizer.

    python models/gte-mini/train/make_random.py TOKENIZER_JSON

The tokenizer is cut from one of XLM-R's kind: the same normaliser, pre-tokenizer and special
tokens, and its likeliest pieces. It needs gte-export (numpy part only). The trained model that
replaces this checkpoint brings its own tokenizer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gte_export.random_checkpoint import Form, write_random_checkpoint

HERE = Path(__file__).parents[1]
VOCABULARY = 16384
SPECIALS = 4

CONFIG = {
    "architectures": ["NewModel", "NewForTokenClassification"],
    "model_type": "new",
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 256,
    "hidden_act": "gelu",
    "vocab_size": VOCABULARY,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "max_position_embeddings": 8192,
    "position_embedding_type": "rope",
    "rope_theta": 20000,
    "rope_scaling": {"type": "ntk", "factor": 8.0},
    "layer_norm_type": "layer_norm",
    "layer_norm_eps": 1e-12,
    "pack_qkv": True,
    "torch_dtype": "float16",
    "notice": "the weights of this gte-mini are random: it shows that everything runs, its vectors mean nothing",
}


def cut(tokenizer: dict, size: int) -> dict:
    """Keep the special tokens, the likeliest pieces, and <mask> as the last id."""
    vocabulary = tokenizer["model"]["vocab"]
    pieces = sorted(vocabulary[SPECIALS:-1], key=lambda piece: -piece[1])[: size - SPECIALS - 1]
    tokenizer["model"]["vocab"] = [*vocabulary[:SPECIALS], *pieces, vocabulary[-1]]
    for token in tokenizer["added_tokens"]:
        if token["content"] == "<mask>":
            token["id"] = size - 1
    return tokenizer


def main(source: Path) -> None:
    tokenizer = cut(json.loads(source.read_text(encoding="utf-8")), VOCABULARY)
    (HERE / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    write_random_checkpoint(HERE, CONFIG, Form(), seed=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
