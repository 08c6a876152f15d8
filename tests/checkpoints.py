"""Tiny random checkpoints in every spelling and shape of the family, with one tokenizer for all of them.

What transformers' own class says of them lies in `data/native`; its generator reads this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gte_export.random_checkpoint import Form, write_random_checkpoint

BASE: dict[str, Any] = {
    "architectures": ["NewModel", "NewForTokenClassification"],
    "model_type": "new",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 150,
    "hidden_act": "gelu",
    "vocab_size": 320,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "max_position_embeddings": 512,
    "position_embedding_type": "rope",
    "rope_theta": 20000,
    "rope_scaling": {"type": "ntk", "factor": 8.0},
    "layer_norm_type": "layer_norm",
    "layer_norm_eps": 1e-12,
    "pack_qkv": True,
}
NATIVE: dict[str, Any] = {
    key: BASE[key]
    for key in (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
        "vocab_size", "pad_token_id",
        "type_vocab_size", "max_position_embeddings", "layer_norm_eps",
    )
} | {"architectures": ["GteForTokenClassification"], "model_type": "gte"}  # fmt: skip
"""What transformers 5 writes: no rope_theta, no rope_scaling, nothing of upstream's own switches."""

HEAD_64: dict[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 330,
    "vocab_size": 400,
}


@dataclass(frozen=True)
class Variation:
    """A checkpoint: what its config.json holds, how its tensors are written, and which random numbers they
    are.
    """

    config: Mapping[str, Any]
    form: Form
    seed: int


def _of(seed: int, form: Form = Form(), base: Mapping[str, Any] = BASE, **config: Any) -> Variation:
    return Variation({**base, **config}, form, seed)


VARIATIONS: dict[str, Variation] = {
    "new_prefix": _of(1),
    "no_prefix": _of(2, Form(prefix="")),
    # The next two have the RoPE of gte-base-en-v1.5 and of gte-large-en-v1.5.
    "type_vocab_0": _of(3, type_vocab_size=0, pad_token_id=0, rope_theta=500000,
        rope_scaling={"type": "ntk", "factor": 2.0}),
    "type_vocab_2": _of(4, type_vocab_size=2, pad_token_id=0, rope_theta=160000,
        rope_scaling={"type": "ntk", "factor": 2.0}),
    # As `save_pretrained` of transformers 5.23 would write gte-multilingual-base: upstream's packed tensors,
    # but `gte.` in front.
    "gte_prefix_native_config": _of(
        5, Form(prefix="gte."), NATIVE, **HEAD_64,
        rope_parameters={"rope_type": "linear", "rope_theta": 160000.0, "factor": 8 ** (1 / 32)},
    ),
    "native_names": _of(
        6, Form(prefix="gte.", spelling="native"), NATIVE,
        rope_parameters={"rope_type": "default", "rope_theta": 160000.0},
    ),
    "unpacked": _of(7, Form(spelling="unpacked"), pack_qkv=False),
    "mixed_b": _of(8, rope_scaling={"type": "ntk", "factor": 8.0, "mixed_b": 0.7}),
    "no_scaling": _of(9, rope_theta=160000, rope_scaling=None),
    # snowflake-arctic-embed-m-v2.0 in small.
    "string_flags": _of(
        10, Form(prefix="", dtype="F32", classifier=False), architectures=["GteModel"], model_type="gte",
        rope_theta=160000, rope_scaling=None, unpad_inputs="true", use_memory_efficient_attention="true",
    ),
    "fp32": _of(11, Form(dtype="F32")),
    "bf16": _of(12, Form(dtype="BF16")),
    "head_24": _of(13, hidden_size=72, num_attention_heads=3, intermediate_size=100, vocab_size=333),
    "head_32": _of(14, hidden_size=32, num_attention_heads=1, intermediate_size=90, vocab_size=301),
    "head_48": _of(15, hidden_size=96, num_attention_heads=2, intermediate_size=200, vocab_size=350),
    "head_64": _of(16, **HEAD_64),
    "no_classifier": _of(17, Form(classifier=False)),
    "auto_model_prefix": _of(18, Form(prefix="0.auto_model.")),
    "layer_norm_eps": _of(19, layer_norm_eps=1e-3),
}  # fmt: skip


RERANKER: dict[str, Any] = {**BASE, "architectures": ["NewForSequenceClassification"]}
RERANKERS: dict[str, Variation] = {
    "reranker": _of(31, base=RERANKER),
    "reranker_fp32": _of(32, Form(dtype="F32"), RERANKER),
    "bare_pooler": _of(33, Form(pooler_prefix=""), RERANKER),
    "bare_pooler_fp32": _of(34, Form(dtype="F32", pooler_prefix=""), RERANKER),
    "reranker_no_prefix": _of(36, Form(prefix=""), RERANKER, type_vocab_size=0, pad_token_id=0),
    "reranker_native": _of(
        37, Form(prefix="gte.", spelling="native", dtype="F32"),
        {**NATIVE, "architectures": ["GteForSequenceClassification"]},
        rope_parameters={"rope_type": "linear", "rope_theta": 160000.0, "factor": 8 ** (2 / 16)},
    ),
}  # fmt: skip
"""Rerankers: `pooler.dense` behind the prefix and without it, in both types, and in transformers' own names.
"""


def write_variation(name: str, directory: Path, tokenizer: Path | None = None) -> None:
    """Write a variation's checkpoint. A build needs a tokenizer beside it; see `write_tokenizer`."""
    variation = (VARIATIONS | RERANKERS)[name]
    write_random_checkpoint(
        directory, dict(variation.config), variation.form, seed=variation.seed, tokenizer=tokenizer
    )


SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
CHARACTERS = "\u2581abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?!;:'-"
WORDS = (
    "The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "sorts", "numbers", "in",
    "Python",
    "What", "is", "of", "capital", "er", "ing",
)  # fmt: skip
"""Those of the self-check's long text, which would otherwise fill all positions and slow every build down."""


def write_tokenizer(path: Path) -> Path:
    """A tokenizer.json of XLM-R's kind with fewer entries than any variation has rows. Returns its path."""
    pieces = [*SPECIALS, *CHARACTERS, *(f"\u2581{word}" for word in WORDS)]
    scores = [0.0] * len(SPECIALS) + [-6.0] * len(CHARACTERS) + [-4.0] * len(WORDS)
    tokenizer = Tokenizer(
        models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=3, byte_fallback=False)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(list(SPECIALS))
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    return path
