"""What sentence-transformers, transformers and the hub put beside the weights and what changes a result.

Each setting is returned, for the bundle's manifest, or it is known to change nothing, or it is refused by its
name. Read are modules.json and the folders that it names, sentence_bert_config.json (and its older names),
config_sentence_transformers.json and the length in tokenizer_config.json; `checkpoint.tokenizer` reads what
else the tokenizer's files say. docs/models.md has the table for users.

The names and meanings are those of sentence-transformers 6.2.0, which still reads the files of all releases
before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arrays import Float32, all_finite
from ..errors import CheckpointError
from ..format.manifest import ACTIVATIONS, MAX_DENSE, POOLINGS, SIMILARITIES
from ..format.values import shown
from .activation import activation
from .files import Folder, plain_folder
from .safetensors import FLOATS, SafetensorsFile
from .splade import Splade, read_splade

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
ENCODER_SETTINGS = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_camembert_config.json", "sentence_albert_config.json", "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)  # fmt: skip
"""Names of one file; the first that is there counts."""
TOKENIZER_SETTINGS = "tokenizer_config.json"

PLAIN = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
"""Modules that this package implements. A Dropout does nothing outside of training."""

OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""{key: mode}, in the order in which the vectors of several are put one after the other."""

WITHOUT_EFFECT = {
    "modality_config", "module_output_name", "unpad_inputs", "model_args", "model_kwargs", "backend",
    "tokenizer_name_or_path", "cache_dir",
}  # fmt: skip
"""Keys of sentence_bert_config.json. `model_args` names types and kernels for PyTorch."""
ENCODER_KEYS = (
    *WITHOUT_EFFECT, "max_seq_length", "do_lower_case", "transformer_task", "processor_kwargs",
    "tokenizer_args", "config_kwargs", "config_args", "query_length", "document_length",
    "query_expansion", "processing_kwargs",
)  # fmt: skip
"""All keys of sentence_bert_config.json that are known."""
DENSE_KEYS = (
    "in_features", "out_features", "bias", "activation_function", "module_input_name",
    "module_output_name", "use_residual",
)  # fmt: skip
"""Of the config.json of a Dense."""
CALL_KEYS = (
    "__version__", "requirements", "model_type", "prompts", "default_prompt_name", "similarity_fn_name",
    "truncate_dim", "activation_fn", "keep_in_fp32_modules",
)  # fmt: skip
"""Of config_sentence_transformers.json."""
TASKS = {"feature-extraction": False, "sequence-classification": True}
"""{transformer_task: it is a reranker's}."""
OUTPUTS = {
    False: {"method": "forward", "method_output_name": "last_hidden_state"},
    True: {"method": "forward", "method_output_name": "logits"},
}
"""{it is a reranker's or a sparse encoder's: what sentence-transformers 6 takes of the model for a text}."""
EMBEDDING = "sentence_embedding"
"""The name that sentence-transformers has for a text's vector between modules."""
LONGEST = 2**20
"""Tokens. Where tokenizers know no limit, their files have 1e30."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A Dense module of the checkpoint: activation(W v + b)."""

    folder: str
    inputs: int
    outputs: int
    bias: bool
    activation: str
    """One of `manifest.ACTIVATIONS`."""

    def read(self, folder: Folder) -> tuple[Float32, Float32]:
        """W [outputs, inputs] and b [outputs], zeros where there is none.

        Raises:
            CheckpointError: there is no model.safetensors, or it has other tensors than the config says.
        """
        path = folder.root / self.folder / "model.safetensors"
        if not path.is_file():
            pickled = (path.parent / "pytorch_model.bin").exists()
            found = "only pickled weights, which can run code and are not read" if pickled else "no weights"
            raise CheckpointError(
                f"{self.folder} has {found}; expected model.safetensors, which sentence-transformers 2.3 and "
                "later write: load the model there and save it again"
            )
        expected: dict[str, tuple[int, ...]] = {"linear.weight": (self.outputs, self.inputs)}
        if self.bias:
            expected["linear.bias"] = (self.outputs,)
        with SafetensorsFile(path) as file:
            shapes = {name: entry.shape for name, entry in file.items()}
            if shapes != expected or any(entry.dtype not in FLOATS for entry in file.values()):
                raise CheckpointError(
                    f"{self.folder}/model.safetensors has {shown(shapes)}; config.json says "
                    f"{shown(expected)}, in {' or '.join(FLOATS)}"
                )
            values = [np.array(file.read(name), np.float32) for name in expected]
        if not all(map(all_finite, values)):
            raise CheckpointError(
                f"{self.folder}/model.safetensors holds NaN or infinity; "
                "the checkpoint is damaged, download it again"
            )
        return values[0], values[1] if self.bias else np.zeros(self.outputs, np.float32)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a checkpoint. Defaults are those of one that has none of the files."""

    prompts: dict[str, str] = field(default_factory=dict)
    """Prompts by name. A prompt is put before a text."""
    default_prompt: str = ""
    """The name of the prompt for texts for which no prompt is named; empty for none."""
    pooling: tuple[str, ...] = ("cls",)
    """Some of `manifest.POOLINGS`."""
    dense: tuple[Dense, ...] = ()
    normalize: bool = True
    max_length: int = 0
    """Tokens; 0 for no limit but that of the positions."""
    lower_case: bool = False
    """Texts are lower-cased before they are tokenized."""
    truncate_dim: int = 0
    """Values; 0 for no cut."""
    similarity: str = "cosine"
    activation: str = ""
    """What follows a reranker's scores, "sigmoid" or "identity"; empty where it is not said."""
    splade: Splade | None = None
    """Of a sparse encoder, where the checkpoint says that it is one."""


def read_modules(folder: Folder, *, unsure: bool = False) -> list[tuple[str, str]]:
    """(kind, folder) of each module in modules.json; none where there is no such file.

    Raises:
        CheckpointError: a module that is not implemented, or in an order that is not.
    """
    if (splade := read_splade(folder)) is not None:
        return [("Transformer", splade.encoder)]
    modules: list[tuple[str, str]] = []
    for place, module in enumerate(folder.json(MODULES, [], unsure=unsure)):
        kind = str(module.get("type", "")) if isinstance(module, dict) else shown(module)[:40]
        package, _, name = kind.rpartition(".")
        if name not in PLAIN or not package.startswith("sentence_transformers."):
            raise CheckpointError(
                f"{MODULES} puts a {kind[:80]} behind the encoder; implemented: {', '.join(PLAIN)} of "
                "sentence_transformers"
            )
        path = module.get("path", "")
        if (name == "Transformer") != (place == 0):
            raise CheckpointError(
                f"{MODULES} has a {name} in place {place}; the Transformer comes first, alone"
            )
        if plain_folder(path) is None and not (name == "Transformer" and path in ("", ".")):
            raise CheckpointError(
                f"{MODULES} keeps the {name.lower()} in {shown(path)}; "
                "expected the name of a folder of the checkpoint"
            )
        modules.append((name, "" if path == "." else path))
    return modules


def encoder_folder(modules: Iterable[tuple[str, str]]) -> str:
    """Where config.json, weights and tokenizer lie: "" for the checkpoint's own folder."""
    return next((path for _, path in modules), "")


def read_settings(folder: Folder, *, reranker: bool = False, ignore_unknown: bool = False) -> Settings:
    """Read all settings of a checkpoint.

    Args:
        folder: of the checkpoint.
        reranker: it scores pairs, so that pooling and prompts are not for it.
        ignore_unknown: accept keys of which it is not known what they change.

    Raises:
        CheckpointError: a setting that is not implemented, or of the wrong type, or a file that cannot be
            read or may be missing.
    """
    modules = read_modules(folder, unsure=reranker)
    encoder = encoder_folder(modules)
    known = _Keys(ignore_unknown)
    at = f"{encoder}/" if encoder else ""
    settings = dict(_encoder_settings(folder, at, reranker, known) if modules else {})
    length = settings.pop("max_length", 0)
    if not length:
        name = f"{at}{TOKENIZER_SETTINGS}"
        length = _length(folder.json(name, {}, limit=2**24, unsure=reranker).get("model_max_length"), name)
    return Settings(
        **settings,
        **_after_encoder(folder, modules, reranker, known),
        **_of_calls(folder, reranker, known, unsure=not modules),
        max_length=length,
        splade=read_splade(folder),
    )


class _Keys:
    """Refuses keys of which it is not known what they change."""

    def __init__(self, ignore: bool) -> None:
        self._ignore = ignore

    def check(self, raw: Mapping[str, Any], name: str, known: Iterable[str]) -> None:
        odd = sorted(str(key) for key in raw.keys() - set(known))
        if odd and not self._ignore:
            raise CheckpointError(
                f"{name[:80]} has the key {odd[0][:80]}, which is not implemented, or of which it is not "
                "known whether it changes results; pass --ignore-unused if you know that it does not"
            )


def _encoder_settings(folder: Folder, at: str, reranker: bool, keys: _Keys) -> dict[str, Any]:
    """From sentence_bert_config.json: the length and whether texts are lower-cased."""
    name = f"{at}{ENCODER_SETTINGS[0]}"
    raw = folder.json(name, None, unsure=reranker)
    for other in ENCODER_SETTINGS[1:]:
        if raw is None:
            name = f"{at}{other}"
            raw = folder.json(name, None, unsure=True)
    if raw is None:
        return {}
    for key in ("query_length", "document_length", "query_expansion", "processing_kwargs"):
        if raw.get(key):
            raise CheckpointError(f"{name[:80]}: {key} is {shown(raw[key])}, which is not implemented")
    task = raw.get("transformer_task", "feature-extraction")
    fills = task == "fill-mask" and read_splade(folder) is not None
    if (
        TASKS.get(task if isinstance(task, str) else "") is not reranker
        and "transformer_task" in raw
        and not fills
    ):
        raise CheckpointError(
            f"{name[:80]}: transformer_task is {shown(task)}, but the weights are those of "
            f"{'a reranker' if reranker else 'an embedding model'}"
        )
    wanted = OUTPUTS[reranker or fills]
    taken = _object(raw.get("modality_config") or {}, name, "modality_config").get("text", wanted)
    if taken != wanted:
        raise CheckpointError(f"{name[:80]}: modality_config takes {shown(taken)}; implemented: {wanted}")
    tokenizer = _object(
        raw.get("processor_kwargs") or raw.get("tokenizer_args") or {}, name, "tokenizer_args"
    )
    config = _object(raw.get("config_kwargs") or raw.get("config_args") or {}, name, "config_args")
    keys.check(tokenizer, f"{name}: tokenizer_args", ("model_max_length", "use_fast", "padding_side"))
    keys.check(config, f"{name}: config_args", ("unpad_inputs", "use_memory_efficient_attention"))
    keys.check(
        raw,
        name,
        ENCODER_KEYS,
    )
    length = tokenizer.get("model_max_length", raw.get("max_seq_length"))
    return {
        "max_length": _length(length, name),
        "lower_case": _flag(raw, "do_lower_case", False, name),
    }


def _after_encoder(
    folder: Folder, modules: Iterable[tuple[str, str]], reranker: bool, keys: _Keys
) -> dict[str, Any]:
    """Pooling, Dense and Normalize."""
    kinds = [(kind, path) for kind, path in modules if kind not in ("Transformer", "Dropout")]
    if not kinds:
        if modules and not reranker and read_splade(folder) is None:
            raise CheckpointError(f"{MODULES} has no Pooling, so there is no vector of a text")
        return {}
    if reranker:
        raise CheckpointError(f"{MODULES} puts a {kinds[0][0]} behind a reranker, which is not implemented")
    order = [kind for kind, _ in kinds]
    normalised = order[-1] == "Normalize"
    layers = kinds[1 : len(kinds) - normalised]
    if order[0] != "Pooling" or any(kind != "Dense" for kind, _ in layers) or len(layers) > MAX_DENSE:
        raise CheckpointError(
            f"{MODULES} has {', '.join(order)[:120]}; implemented is one Pooling, then up to {MAX_DENSE} "
            "Dense, then a Normalize or none"
        )
    if normalised:
        name = f"{kinds[-1][1]}/config.json"
        _only_sentences(folder.json(name, {}, unsure=True), name)
    return {
        "pooling": _pooling(folder, kinds[0][1], keys),
        "dense": tuple(_dense(folder, path, keys) for _, path in layers),
        "normalize": normalised,
    }


def _required(folder: Folder, path: str, what: str) -> tuple[dict[str, Any], str]:
    name = f"{path}/config.json"
    raw = folder.json(name, None, unsure=True)
    if raw is None:
        raise CheckpointError(
            f"{MODULES} names {name[:80]}, which is not there; without it {what} is not known"
        )
    return raw, name


def _pooling(folder: Folder, path: str, keys: _Keys) -> tuple[str, ...]:
    raw, name = _required(folder, path, "the pooling")
    keys.check(
        raw,
        name,
        (*OLD_POOLINGS, "pooling_mode", "word_embedding_dimension", "embedding_dimension", "include_prompt"),
    )
    modes = raw.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in OLD_POOLINGS.items() if _flag(raw, key, False, name)]
    elif isinstance(modes, str):
        modes = [modes]
    if not isinstance(modes, list) or not modes or not all(mode in POOLINGS for mode in modes):
        found = ", ".join(map(str, modes)) if isinstance(modes, list) else shown(modes)
        raise CheckpointError(
            f"{name[:80]}: the pooling is {found[:80] or 'none'}; implemented: {', '.join(POOLINGS)}"
        )
    if len(set(modes)) < len(modes):
        raise CheckpointError(f"{name[:80]}: the pooling is {', '.join(modes)[:80]}, one of them twice")
    if not _flag(raw, "include_prompt", True, name):
        raise CheckpointError(
            f"{name[:80]}: include_prompt is false; vectors without the prompt's tokens are not implemented"
        )
    return tuple(modes)


def _dense(folder: Folder, path: str, keys: _Keys) -> Dense:
    raw, name = _required(folder, path, "the layer")
    keys.check(
        raw,
        name,
        DENSE_KEYS,
    )
    _only_sentences(raw, name)
    if _flag(raw, "use_residual", False, name):
        raise CheckpointError(f"{name[:80]}: use_residual is set, which is not implemented")
    sizes = [raw.get(key) for key in ("in_features", "out_features")]
    for key, size in zip(("in_features", "out_features"), sizes, strict=True):
        if type(size) is not int or not 1 <= size <= 2**16:
            raise CheckpointError(
                f"{name[:80]}: {key} is {shown(size)}; expected an integer from 1 to {2**16}"
            )
    return Dense(
        folder=path,
        inputs=int(sizes[0] or 0),
        outputs=int(sizes[1] or 0),
        bias=_flag(raw, "bias", True, name),
        activation=activation(
            raw.get("activation_function", "torch.nn.Tanh"),
            f"{name[:80]}: activation_function",
            ACTIVATIONS,
        ),
    )


def _only_sentences(raw: Mapping[str, Any], name: str) -> None:
    for key in ("module_input_name", "module_output_name"):
        if raw.get(key) not in (None, EMBEDDING):
            raise CheckpointError(f"{name[:80]}: {key} is {shown(raw[key])}; implemented: {EMBEDDING}")


def _of_calls(folder: Folder, reranker: bool, keys: _Keys, unsure: bool) -> dict[str, Any]:
    """From config_sentence_transformers.json: prompts, similarity, the cut, a reranker's activation."""
    raw = folder.json(PROMPTS, {}, unsure=unsure or reranker)
    keys.check(
        raw,
        PROMPTS,
        CALL_KEYS,
    )
    kind = raw.get("model_type")
    splade = read_splade(folder) is not None
    expected = "CrossEncoder" if reranker else "SparseEncoder" if splade else "SentenceTransformer"
    if kind not in (None, expected):
        raise CheckpointError(
            f"{PROMPTS}: model_type is {shown(kind)}, but the weights are those of "
            f"{'a reranker' if reranker else 'an embedding model'}"
        )
    prompts, default = _prompts(raw)
    if reranker and prompts:
        raise CheckpointError(
            f"{PROMPTS} has prompts ({', '.join(prompts)[:80]}) for a reranker, which are not implemented"
        )
    similarity = raw.get("similarity_fn_name") or ("dot" if splade else "cosine")
    if similarity not in SIMILARITIES:
        raise CheckpointError(
            f"{PROMPTS}: similarity_fn_name is {shown(similarity)}; implemented: {', '.join(SIMILARITIES)}"
        )
    dim = raw.get("truncate_dim")
    if dim is not None and (type(dim) is not int or not 0 < dim <= 2**20):
        raise CheckpointError(f"{PROMPTS}: truncate_dim is {shown(dim)}; expected a number of values")
    found: dict[str, Any] = {
        "prompts": prompts, "default_prompt": default, "similarity": similarity, "truncate_dim": dim or 0,
    }  # fmt: skip
    if reranker and raw.get("activation_fn") is not None:
        found["activation"] = activation(
            raw["activation_fn"], f"{PROMPTS}: activation_fn", ("sigmoid", "identity")
        )
    return found


def _prompts(raw: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    prompts = raw.get("prompts") or {}
    default = raw.get("default_prompt_name") or ""
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise CheckpointError(f"{PROMPTS}: prompts is {shown(prompts)}; expected names and texts")
    if default and (not isinstance(default, str) or default not in prompts):
        raise CheckpointError(
            f"{PROMPTS}: default_prompt_name is {shown(default)}, "
            f"which is none of the prompts ({', '.join(prompts)[:200]})"
        )
    # Where a model has no prompts, sentence-transformers writes some that are empty.
    return {name: text for name, text in prompts.items() if text}, default if prompts.get(default) else ""


def _length(value: object, name: str) -> int:
    """A number of tokens; 0 where there is no limit."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1:
        raise CheckpointError(f"{name[:80]}: the longest text is {shown(value)}; expected a number of tokens")
    return 0 if value > LONGEST else int(value)


def _flag(raw: Mapping[str, Any], key: str, default: bool, name: str) -> bool:
    value = raw.get(key, default)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise CheckpointError(f"{name[:80]}: {key} is {shown(value)}; expected true or false")
    return value


def _object(value: object, name: str, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{name[:80]}: {key} is {shown(value)}; expected an object")
    return value
