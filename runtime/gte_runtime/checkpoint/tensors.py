"""The tensors of a checkpoint under one set of names, whatever the file calls them and however it packs them.

Names and shapes, with weights in PyTorch's [out, in] orientation, where V is the vocabulary and H the width:

    embeddings.word [V, H]        embeddings.token_type [n, H] (absent when n is 0)
    embeddings.norm.{weight,bias}
    layers.{i}.{query,key,value,output}.{weight,bias}
    layers.{i}.{up,gate,down}.weight, layers.{i}.down.bias
    layers.{i}.{attention_norm,mlp_norm}.{weight,bias}
    token_head.{weight,bias} [1, H], [1] (absent without a sparse head)
    pair_head.pooler.{weight,bias} [H, H], [H] and pair_head.logit.{weight,bias} [1, H], [1] (rerankers only)
    mlm_head.dense.{weight,bias} [H, H], [H], mlm_head.norm.{weight,bias} [H] and
    mlm_head.decoder.{weight,bias} [V, H], [V] (sparse encoders only)

The names that are found in the file decide how they are mapped, never `architectures` or `model_type`:
checkpoints with different tensors have the same values there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import all_finite
from ..errors import CheckpointError
from .config import Config, read_config
from .files import Folder, open_folder
from .modules import encoder_folder, read_modules
from .safetensors import FLOATS
from .shards import Weights

PREFIXES = ("new.", "gte.", "0.auto_model.")
BUFFERS = ("embeddings.position_ids", "rotary_emb.inv_freq", "embeddings.rotary_emb.inv_freq")
"""Tables that some exporters store with the weights. They are computed here, so they are not read."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor is: its name in the file and, where several are packed in one, its rows."""

    tensor: str
    stored_shape: tuple[int, ...]
    start: int = 0
    stop: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        if self.stop is None:
            return self.stored_shape
        return (self.stop - self.start, *self.stored_shape[1:])


class Checkpoint:
    """The tensors of a checkpoint directory, checked against its config. Values are read on demand.

    Raises:
        CheckpointError: a tensor is missing, has another shape than the config implies, or is not used by
            this architecture, or a key of the config is not known. `ignore_unused` accepts the last two
            kinds; the tensors are then listed in `unused`.
    """

    def __init__(self, directory: Path, *, ignore_unused: bool = False) -> None:
        self.folder: Folder = open_folder(directory)
        """Of modules.json and the like."""
        self.encoder = encoder_folder(read_modules(self.folder, unsure=True))
        """The folder in it that has the encoder's files; mostly "", itself."""
        self.directory = self.folder.root / self.encoder
        self.config: Config = read_config(self.directory)
        self._file = Weights(self.directory)
        try:
            prefix = _prefix(self._file)
            self._sources = _sources(self._file, prefix, self.config)
            if self.config.unknown and not ignore_unused:
                raise CheckpointError(
                    f"config.json has {_some(self.config.unknown, 'keys')}, "
                    "of which it is not known whether they change vectors; "
                    "pass --ignore-unused if you know that they do not"
                )
            _refuse_other_heads(self._file, self._sources, self.config)
            self._check()
            self.unused = self._unused(prefix)
            if self.unused and not ignore_unused:
                raise CheckpointError(
                    f"{self._file.name} has {_some(self.unused)}, which this architecture does not use; "
                    f"expected only the encoder and its {'pair' if self.reranker else 'sparse'} head. "
                    "A tensor left out can mean wrong vectors: "
                    "pass --ignore-unused if you know that it does not"
                )
        except CheckpointError:
            self._file.close()
            raise

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """model.safetensors, or the shards in the order of their index."""
        return self._file.paths

    @property
    def has_sparse_head(self) -> bool:
        """It has the tensors of the head that weights tokens."""
        return "token_head.weight" in self._sources

    @property
    def has_mlm_head(self) -> bool:
        """It has the masked-language-model head, which expands a text over the vocabulary."""
        return "mlm_head.dense.weight" in self._sources

    @property
    def reranker(self) -> bool:
        """It scores pairs of texts and returns no vectors."""
        return "pair_head.logit.weight" in self._sources

    @property
    def table_dtype(self) -> str:
        """`float16` or `float32`: the narrowest type that holds the embedding table without loss."""
        return "float16" if self._file[self._sources["embeddings.word"].tensor].dtype == "F16" else "float32"

    def __contains__(self, name: str) -> bool:
        return name in self._sources

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading its values."""
        return self._sources[name].shape

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32, in [out, in] orientation."""
        source = self._sources[name]
        return self._rows(source, source.start, source.stop).astype(np.float32)

    def read_rows(self, name: str, chunk: int) -> Iterator[NDArray[Any]]:
        """Yield a matrix in pieces of `chunk` rows, float16 or float32 as stored, to keep memory small."""
        source = self._sources[name]
        for start in range(0, source.shape[0], chunk):
            stop = min(start + chunk, source.shape[0])
            yield self._rows(source, source.start + start, source.start + stop)

    def rows(self, name: str, index: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """The rows `index` of a matrix, float32 [len(index), width]. The other rows are not read."""
        source = self._sources[name]
        return np.stack([self._rows(source, int(i), int(i) + 1)[0] for i in index]).astype(np.float32)

    def _rows(self, source: Source, start: int, stop: int | None) -> NDArray[Any]:
        """Rows of a tensor of the file as stored.

        Raises:
            CheckpointError: a value is NaN or infinite. A bundle with it could give finite vectors that are
                wrong, because int8 has no NaN.
        """
        values = self._file.read(source.tensor, slice(start, stop))
        if not all_finite(values):
            raise CheckpointError(
                f"tensor {source.tensor[:80]} of {self._file.file_of(source.tensor)} holds NaN or infinity; "
                "the checkpoint is damaged, download it again"
            )
        return values

    def close(self) -> None:
        """Release the file. No tensor can be read afterwards."""
        self._file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        for name, shape in expected_shapes(
            self.config, self.has_sparse_head, self.reranker, self.has_mlm_head
        ).items():
            source = self._sources[name]
            stored = self._file[source.tensor]
            if source.shape != shape:
                whole = _stored_expectation(source, shape)
                raise CheckpointError(
                    f"tensor {source.tensor}: expected shape {list(whole)} from config.json, "
                    f"found {list(source.stored_shape)}"
                )
            if stored.dtype not in FLOATS:
                raise CheckpointError(
                    f"tensor {source.tensor}: expected type {' or '.join(FLOATS)}, found {stored.dtype}"
                )

    def _unused(self, prefix: str) -> tuple[str, ...]:
        used = {source.tensor for source in self._sources.values()}
        if self.has_mlm_head:
            used |= {"lm_head.decoder.weight", "lm_head.bias"}  # copies of what is read
        return tuple(
            name for name in self._file if name not in used and name.removeprefix(prefix) not in BUFFERS
        )


def expected_shapes(
    config: Config, sparse: bool, reranker: bool = False, mlm: bool = False
) -> dict[str, tuple[int, ...]]:
    """{name: shape} of all tensors that a checkpoint with this config must have."""
    a = config.architecture
    h, i = a.hidden_size, a.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word": (a.vocab_size, h)}
    if config.type_vocab_size:
        shapes["embeddings.token_type"] = (config.type_vocab_size, h)
    shapes |= {"embeddings.norm.weight": (h,), "embeddings.norm.bias": (h,)}
    for n in range(a.layers):
        for part in ("query", "key", "value", "output"):
            shapes |= {f"layers.{n}.{part}.weight": (h, h), f"layers.{n}.{part}.bias": (h,)}
        shapes |= {f"layers.{n}.{part}.weight": (i, h) for part in ("up", "gate")}
        shapes |= {f"layers.{n}.down.weight": (h, i), f"layers.{n}.down.bias": (h,)}
        for part in ("attention_norm", "mlp_norm"):
            shapes |= {f"layers.{n}.{part}.weight": (h,), f"layers.{n}.{part}.bias": (h,)}
    if mlm:
        shapes |= {"mlm_head.dense.weight": (h, h), "mlm_head.dense.bias": (h,)}
        shapes |= {"mlm_head.norm.weight": (h,), "mlm_head.norm.bias": (h,)}
        shapes |= {"mlm_head.decoder.weight": (a.vocab_size, h), "mlm_head.decoder.bias": (a.vocab_size,)}
    if sparse:
        shapes |= {"token_head.weight": (1, h), "token_head.bias": (1,)}
    if reranker:
        shapes |= {"pair_head.pooler.weight": (h, h), "pair_head.pooler.bias": (h,)}
        shapes |= {"pair_head.logit.weight": (1, h), "pair_head.logit.bias": (1,)}
    return shapes


def _prefix(file: Weights) -> str:
    for prefix in (*PREFIXES, ""):
        if f"{prefix}embeddings.word_embeddings.weight" in file:
            return prefix
    raise CheckpointError(
        f"{file.name}: tensor embeddings.word_embeddings.weight is missing "
        f"(looked for it plain and under {', '.join(PREFIXES)}); found {_some(tuple(file))}"
    )


def _sources(file: Weights, prefix: str, config: Config) -> dict[str, Source]:
    def whole(tensor: str) -> Source:
        if tensor not in file:
            raise CheckpointError(f"tensor {tensor} is missing from {file.name}; the config asks for it")
        return Source(tensor, file[tensor].shape)

    a = config.architecture
    sources = {"embeddings.word": whole(f"{prefix}embeddings.word_embeddings.weight")}
    if config.type_vocab_size:
        sources["embeddings.token_type"] = whole(f"{prefix}embeddings.token_type_embeddings.weight")
    for kind in ("weight", "bias"):
        sources[f"embeddings.norm.{kind}"] = whole(f"{prefix}embeddings.LayerNorm.{kind}")
    native = f"{prefix}layers.0.post_mlp_layernorm.weight" in file
    for n in range(a.layers):
        layer = (
            _native_layer(f"{prefix}layers.{n}.", whole)
            if native
            else _upstream_layer(
                f"{prefix}encoder.layer.{n}.", file, whole, a.hidden_size, a.intermediate_size
            )
        )
        sources |= {f"layers.{n}.{name}": source for name, source in layer.items()}
    if "classifier.weight" in file:
        pooler = _pooler(file, prefix)
        head = "pair_head.logit" if pooler else "token_head"
        sources |= {f"{head}.{kind}": whole(f"classifier.{kind}") for kind in ("weight", "bias")}
        if pooler:
            sources |= {f"pair_head.pooler.{kind}": whole(f"{pooler}.{kind}") for kind in ("weight", "bias")}
    if "lm_head.dense.weight" in file:
        sources |= _mlm_head(file, whole, sources["embeddings.word"], config.tied)
    return sources


def _mlm_head(file: Weights, whole: Any, table: Source, tied: bool) -> dict[str, Source]:
    """Upstream calls the norm `norm`, the class in transformers 5 `layer_norm`. The decoder's weights are the
    embedding table unless the config says otherwise; a copy in the file is then not read, as transformers
    does it."""
    norm = "lm_head.norm" if "lm_head.norm.weight" in file else "lm_head.layer_norm"
    bias = "lm_head.bias" if "lm_head.decoder.bias" not in file else "lm_head.decoder.bias"
    head = {f"mlm_head.dense.{kind}": whole(f"lm_head.dense.{kind}") for kind in ("weight", "bias")}
    head |= {f"mlm_head.norm.{kind}": whole(f"{norm}.{kind}") for kind in ("weight", "bias")}
    head["mlm_head.decoder.weight"] = table if tied else whole("lm_head.decoder.weight")
    head["mlm_head.decoder.bias"] = whole(bias)
    return head


def _pooler(file: Weights, prefix: str) -> str | None:
    """The pooler's name without `.weight` or `.bias`; None where there is no pooler.

    In upstream's files it has the prefix that all tensors have; in those of some fine-tunes it has none.
    """
    found = [
        name for name in dict.fromkeys((f"{prefix}pooler.dense", "pooler.dense")) if f"{name}.weight" in file
    ]
    if len(found) > 1:
        raise CheckpointError(
            f"{file.name} holds two poolers, {' and '.join(found)}; only one of them can be the trained one"
        )
    return found[0] if found else None


def _upstream_layer(at: str, file: Weights, whole: Any, hidden: int, intermediate: int) -> dict[str, Source]:
    """Upstream's names. Query, key and value may be one tensor; up and gate always are one, up first."""
    layer: dict[str, Source] = {}
    packed = f"{at}attention.qkv_proj.weight" in file or f"{at}attention.q_proj.weight" not in file
    for kind in ("weight", "bias"):
        if packed:
            layer |= _split(whole(f"{at}attention.qkv_proj.{kind}"), ("query", "key", "value"), hidden, kind)
        else:
            layer |= {
                f"{name}.{kind}": whole(f"{at}attention.{name[0]}_proj.{kind}")
                for name in ("query", "key", "value")
            }
        layer[f"output.{kind}"] = whole(f"{at}attention.o_proj.{kind}")
        layer[f"down.{kind}"] = whole(f"{at}mlp.down_proj.{kind}")
        layer[f"attention_norm.{kind}"] = whole(f"{at}attn_ln.{kind}")
        layer[f"mlp_norm.{kind}"] = whole(f"{at}mlp_ln.{kind}")
    return layer | _split(whole(f"{at}mlp.up_gate_proj.weight"), ("up", "gate"), intermediate, "weight")


def _native_layer(at: str, whole: Any) -> dict[str, Source]:
    """The names of the `gte` class in transformers 5, where nothing is packed."""
    layer: dict[str, Source] = {}
    for kind in ("weight", "bias"):
        layer |= {
            f"{name}.{kind}": whole(f"{at}self_attn.{name[0]}_proj.{kind}")
            for name in ("query", "key", "value", "output")
        }
        layer[f"down.{kind}"] = whole(f"{at}mlp.down_proj.{kind}")
        layer[f"attention_norm.{kind}"] = whole(f"{at}post_attention_layernorm.{kind}")
        layer[f"mlp_norm.{kind}"] = whole(f"{at}post_mlp_layernorm.{kind}")
    return layer | {f"{name}.weight": whole(f"{at}mlp.{name}_proj.weight") for name in ("up", "gate")}


def _split(packed: Source, names: tuple[str, ...], rows: int, kind: str) -> dict[str, Source]:
    """The tensors that are packed in one, `rows` rows each, in order."""
    if packed.stored_shape[:1] != (rows * len(names),):
        expected = [rows * len(names), *packed.stored_shape[1:]]
        raise CheckpointError(
            f"tensor {packed.tensor}: expected shape {expected} from config.json, "
            f"found {list(packed.stored_shape)}"
        )
    return {
        f"{name}.{kind}": Source(packed.tensor, packed.stored_shape, n * rows, (n + 1) * rows)
        for n, name in enumerate(names)
    }


def _stored_expectation(source: Source, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a tensor of the file should have, given that of the tensor in it."""
    return shape if source.stop is None else (source.stored_shape[0], *shape[1:])


def _refuse_other_heads(file: Weights, sources: dict[str, Source], config: Config) -> None:
    """Refuse a classifier that is no reranker's of this family: its scores would be silently wrong."""
    logit = sources.get("pair_head.logit.weight")
    if config.names_reranker and logit is None:
        missing = "pooler.dense" if "classifier.weight" in file else "classifier"
        raise CheckpointError(
            f"architectures names a sequence classifier, but there is no {missing} tensor; "
            "the checkpoint is incomplete"
        )
    if logit is not None and logit.shape[:1] != (1,):
        raise CheckpointError(
            f"the classifier has {logit.shape[0]} labels; implemented are rerankers, which have one"
        )
    if logit is not None and config.type_vocab_size > 1:
        # In BERT's convention the second text of a pair takes the second row. No released reranker has one.
        raise CheckpointError(
            f"a reranker with type_vocab_size {config.type_vocab_size} "
            "tells query and document apart by token types; implemented: 0 and 1"
        )


def _some(names: tuple[str, ...], kind: str = "tensors") -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more {kind}"
