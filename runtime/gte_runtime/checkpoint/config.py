"""A checkpoint's config.json, reduced to what a build needs: the architecture, RoPE, and a few facts.

This module reads no tensors and no file but config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..format.architecture import BOUNDS, Architecture
from ..format.values import parse_json, shown
from ..machine.files import read_regular
from .activation import activation
from .rope import Rope

MODEL_TYPES = ("new", "gte")
"""`new` is the type in upstream's code, `gte` that of Snowflake and of the class in transformers 5."""

READ = {
    "add_cross_attention", "architectures", "head_dim", "hidden_act", "hidden_size", "intermediate_size",
    "is_decoder", "is_encoder_decoder", "layer_norm_eps", "layer_norm_type", "logn_attention_clip1",
    "logn_attention_scale", "matryoshka_dimensions", "matryoshka_dims", "max_position_embeddings",
    "model_type", "notice", "num_attention_heads", "num_hidden_layers", "pack_qkv",
    "position_embedding_type", "pruned_heads", "rope_parameters", "rope_scaling", "rope_theta",
    "tie_word_embeddings",
    "sbert_ce_default_activation_function", "sentence_transformers", "type_vocab_size",
    "unpad_inputs", "use_memory_efficient_attention", "vocab_size",
}  # fmt: skip
"""Keys whose value is read or checked."""

WITHOUT_EFFECT = {
    # Training, and what else upstream's class stores.
    "attention_probs_dropout_prob", "auto_map", "classifier_dropout", "hidden_dropout_prob",
    "initializer_range", "num_labels",
    # What the base classes of transformers 4 and 5 and of sentence-transformers write into every config.
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "attn_implementation",
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "cls_token_id",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
    "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
    "label2id", "length_penalty", "mask_token_id", "max_length", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_scores", "pad_token_id", "prefix", "problem_type", "remove_invalid_values",
    "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype",
    "torchscript", "transformers_version", "typical_p", "unk_token_id", "use_bfloat16", "use_cache",
}  # fmt: skip
"""Keys that are known not to change a vector. They are ignored."""

ROPE_KEYS = {"type", "rope_type", "factor", "mixed_b", "rope_theta"}

MAX_BYTES = 2**20
"""Of config.json, which is read whole. It has some 2 kB."""

LARGEST = 2.0**63
"""No number of a config is that large. The bound also excludes infinity and integers beyond float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The contents of config.json that are used."""

    architecture: Architecture
    rope: Rope
    type_vocab_size: int
    names_reranker: bool
    """`architectures` names a sequence classifier, so the checkpoint must have a pooler and a classifier."""
    activation: str
    """What sentence-transformers applies to a reranker's scores, "sigmoid" or "identity"; empty where the
    config does not say it."""
    trained_dims: tuple[int, ...]
    """The lengths of vectors that the model was trained for (Matryoshka), ascending, if it names any."""
    unknown: tuple[str, ...]
    """Keys of which it is not known whether they change a vector, sorted."""
    tied: bool
    """The decoder of a masked-language-model head has the embedding table's weights."""
    notice: str
    """A message to the checkpoint's users, such as that its weights are random; mostly empty."""


def read_config(path: Path) -> Config:
    """Read config.json, given its path or its directory.

    Raises:
        CheckpointError: it is absent, not JSON, or of a model that this package does not implement.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        raw = parse_json(read_regular(file, MAX_BYTES))
    except FileNotFoundError:
        raise CheckpointError(
            f"no config.json in {path.name or path}; a checkpoint directory has one"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file.name} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{file.name} cannot be read as JSON: {str(error)[:120]}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file.name} holds a {type(raw).__name__}, not an object")
    return parse_config(raw)


def parse_config(raw: Mapping[str, Any]) -> Config:
    """Check a config and reduce it. Missing keys have the defaults of upstream's config class.

    Raises:
        CheckpointError: naming the key, what it holds and what is implemented.
    """
    _refuse_other_models(raw)
    hidden, heads = _integer(raw, "hidden_size"), _integer(raw, "num_attention_heads", "heads")
    if hidden % heads or (hidden // heads) % 2:
        raise CheckpointError(
            f"hidden_size {hidden} over num_attention_heads {heads}: "
            "heads must share the width evenly and RoPE needs an even head size"
        )
    if raw.get("head_dim") not in (None, hidden // heads):
        raise CheckpointError(
            f"head_dim is {shown(raw['head_dim'])}; hidden_size over num_attention_heads is {hidden // heads}"
        )
    eps = raw.get("layer_norm_eps", 1e-12)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < 1:
        raise CheckpointError(f"layer_norm_eps is {shown(eps)}; expected a small positive number")
    architecture = Architecture(
        layers=_integer(raw, "num_hidden_layers", "layers"),
        hidden_size=hidden,
        heads=heads,
        intermediate_size=_integer(raw, "intermediate_size"),
        vocab_size=_integer(raw, "vocab_size", default=30528),
        max_positions=_integer(raw, "max_position_embeddings", "max_positions", 2048),
        layer_norm_eps=float(eps),
    )
    names = _list(raw, "architectures")
    dims = _list(raw, "matryoshka_dimensions") or _list(raw, "matryoshka_dims")
    return Config(
        architecture=architecture,
        rope=_rope(raw, architecture.head_size),
        type_vocab_size=_integer(raw, "type_vocab_size", default=1),
        names_reranker=any("SequenceClassification" in str(name) for name in names),
        activation=_activation(raw),
        trained_dims=tuple(sorted(d for d in dims if isinstance(d, int) and 0 < d <= hidden)),
        unknown=tuple(sorted(str(key)[:80] for key in raw.keys() - READ - WITHOUT_EFFECT)),
        tied=raw.get("tie_word_embeddings") is None or _flag(raw, "tie_word_embeddings"),
        notice=str(raw.get("notice", "")),
    )


def _activation(raw: Mapping[str, Any]) -> str:
    """Of a cross-encoder, as sentence-transformers 4 and later write it, and those before."""
    library = raw.get("sentence_transformers")
    name, path = "sbert_ce_default_activation_function", raw.get("sbert_ce_default_activation_function")
    if isinstance(library, Mapping) and library.get("activation_fn") is not None:
        name, path = "sentence_transformers.activation_fn", library["activation_fn"]
    return "" if path is None else activation(path, name, ("sigmoid", "identity"))


def _refuse_other_models(raw: Mapping[str, Any]) -> None:
    allowed: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "model_type": ("new", MODEL_TYPES),
        "position_embedding_type": ("rope", ("rope",)),
        "layer_norm_type": ("layer_norm", ("layer_norm",)),
        "hidden_act": ("gelu", ("gelu",)),
    }
    for key, (default, values) in allowed.items():
        value = raw.get(key, default)
        if value not in values:
            raise CheckpointError(f"{key} is {shown(value)}; implemented: {', '.join(values)}")
    for key in ("logn_attention_scale", "logn_attention_clip1"):
        if _flag(raw, key):
            # Upstream's present code ignores it, its code of June 2024 scaled the queries. No released
            # model sets it, so there is nothing to compare with, and a guess could be silently wrong.
            raise CheckpointError(f"{key} is set; no released model uses it and it is not implemented")
    for key in ("add_cross_attention", "is_decoder", "is_encoder_decoder"):
        if _flag(raw, key):
            raise CheckpointError(
                f"{key} is set; this model is an encoder, in which every token sees every other"
            )
    if raw.get("pruned_heads"):
        raise CheckpointError(
            "pruned_heads is set; the checkpoint lacks attention heads, which is not implemented"
        )
    # They choose between equivalent paths in the PyTorch code. Checked only for their type: Snowflake's
    # configs have the strings "true" and "false".
    for key in ("pack_qkv", "unpad_inputs", "use_memory_efficient_attention"):
        _flag(raw, key)


def _rope(raw: Mapping[str, Any], head_size: int) -> Rope:
    """From `rope_parameters`, or from `rope_theta` and `rope_scaling`; if there are both, they must agree."""
    theta = _number(raw, "rope_theta", 10000.0)
    native = raw.get("rope_parameters")
    if native is None:
        return _upstream_rope(raw, theta, head_size)
    rope = _native_rope(raw, native, theta, head_size)
    if raw.get("rope_scaling") is not None or raw.get("rope_theta") not in (
        None,
        rope.theta,
        native.get("rope_theta"),
    ):
        other = _upstream_rope(raw, theta, head_size)
        if not np.allclose(rope.frequencies(), other.frequencies(), rtol=1e-5):
            raise CheckpointError(
                "rope_parameters contradicts rope_theta and rope_scaling; "
                "leave in config.json what the model was trained with"
            )
    return rope


def _native_rope(raw: Mapping[str, Any], native: Any, theta: float, head_size: int) -> Rope:
    """From `rope_parameters`, as transformers 5 writes it."""
    if not isinstance(native, Mapping):
        raise CheckpointError(f"rope_parameters is {shown(native)}; expected an object")
    kind = _kind(native, "rope_parameters", "default")
    if "rope_theta" not in native and "rope_theta" not in raw:
        # The default is 10000 in upstream's class and 160000 in that of transformers: a guess could be
        # silently wrong.
        raise CheckpointError(
            "rope_parameters has no rope_theta, and config.json has none either; "
            "add the one the model was trained with"
        )
    theta = _number(native, "rope_theta", theta)
    if kind == "default":
        return Rope(head_size=head_size, theta=theta)
    if kind == "linear":
        return Rope(head_size=head_size, theta=theta, divisor=_number(native, "factor"))
    if kind != "ntk":
        raise CheckpointError(
            f"rope_parameters has rope_type {shown(kind)}; implemented: default, linear, ntk"
        )
    return _ntk(native, theta, head_size)


def _upstream_rope(raw: Mapping[str, Any], theta: float, head_size: int) -> Rope:
    """From `rope_theta` and `rope_scaling`, as upstream's config class writes them."""
    scaling = raw.get("rope_scaling")
    if scaling is None:
        return Rope(head_size=head_size, theta=theta)
    if not isinstance(scaling, Mapping):
        raise CheckpointError(f"rope_scaling is {shown(scaling)}; expected an object or null")
    kind = _kind(scaling, "rope_scaling", None)
    if kind == "default":
        return Rope(head_size=head_size, theta=theta)
    if kind != "ntk":
        raise CheckpointError(f"rope_scaling has type {shown(kind)}; implemented: ntk")
    return _ntk(scaling, theta, head_size)


def _kind(scaling: Mapping[str, Any], name: str, default: Any) -> Any:
    """The type of scaling: upstream's key is `type`, that of later transformers is `rope_type`."""
    if odd := sorted(map(str, scaling.keys() - ROPE_KEYS)):
        raise CheckpointError(
            f"{name} has the key {odd[0]:.80}, which is not implemented; "
            f"known: {', '.join(sorted(ROPE_KEYS))}"
        )
    kinds = [scaling[key] for key in ("rope_type", "type") if key in scaling]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise CheckpointError(
            f"{name} has rope_type {shown(kinds[0])} and type {shown(kinds[1])}, which contradict each other"
        )
    return kinds[0] if kinds else default


def _ntk(scaling: Mapping[str, Any], theta: float, head_size: int) -> Rope:
    mixed_b = None if scaling.get("mixed_b") is None else _number(scaling, "mixed_b")
    return Rope.ntk(head_size=head_size, theta=theta, factor=_number(scaling, "factor"), mixed_b=mixed_b)


def _integer(raw: Mapping[str, Any], key: str, field: str = "", default: int | None = None) -> int:
    """A number of the architecture, whose field of `Architecture` gives its bounds."""
    least, most = BOUNDS[Architecture, field or key] if key != "type_vocab_size" else (0, 2**16)
    value = raw.get(key, default)
    if value is None:
        raise CheckpointError(f"config.json has no {key}")
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise CheckpointError(
            f"{key} is {shown(value)}; expected an integer of at least {least} and at most {most}"
        )
    return value


def _number(raw: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < LARGEST:
        raise CheckpointError(f"{key} is {shown(value)}; expected a positive number")
    return float(value)


def _list(raw: Mapping[str, Any], key: str) -> list[Any]:
    value = raw.get(key) or []
    if not isinstance(value, list) or raw.get(key) is False:
        raise CheckpointError(f"{key} is {shown(value)}; expected a list")
    return value


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    """A boolean, or a string that spells one; false where there is none."""
    value = raw.get(key)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is None or isinstance(value, bool):
        return bool(value)
    raise CheckpointError(f"{key} is {shown(value)}; expected true or false")
