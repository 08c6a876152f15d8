"""The manifest of a bundle: its files and how to run them. Pure: JSON in, checked values out, and back.

The format is documented in models/README.md. An unknown field or a value out of its range is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleCorruptError, BundleError, BundleVersionError
from .architecture import BOUNDS as ARCHITECTURE_BOUNDS
from .architecture import Architecture
from .values import Bounds, parse_json, read_as, shown

FORMAT = 2
"""What is written. Bundles of format 1, whose manifests have no checksum, are read, too."""
FORMATS = (1, 2)
CHECKSUM = "sha256"
"""The field with which a manifest ends from format 2 on; see `with_checksum`."""
UNKNOWN = "0" * 64
"""What the checksum's digits are taken for when it is computed."""
FILE = "manifest.json"
MAX_BYTES = 1_000_000
"""Bytes. A manifest has some 50 kB; a far larger file is not one and is not read."""

MAX_TOKENIZER = 64 * 2**20
"""Bytes of tokenizer.json, which is read whole. That of gte-multilingual-base has 17 MB."""
MAX_GRAPH = 16 * 2**20
"""Bytes of a graph, which is read whole. The largest that ships, of 24 layers, has 0.6 MB."""

MAX_VARIANTS = 64
MAX_CHECKS = 16
"""Self-checks in a manifest. A build writes four."""
MAX_CHECK_IDS = 2048
"""Tokens of a self-check. The longest text of a build has 790 characters."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
"""A file name without a path, so that no file outside of the bundle's directory can be named."""

BATCHES = ("ragged", "packed", "padded")
"""How the texts of a batch are laid out. `ragged` and `packed`: concatenated, without padding. A ragged graph
has two attention paths (see `Variant.flash_from`), a packed one has one, which needs CUDA. `padded`: all
padded to the longest."""

FORMS = ("exact", "NFC")
"""Values of `Manifest.unicode`; `tokenization.form` composes."""

SHA256 = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}")

VECTORS = ("cls", "token_weights")
"""Outputs of an embedding model's graph."""
STATES = (*VECTORS, "token_states")
"""Outputs of graphs traced since 2026-11-27: also the states of all tokens, fetched only on request."""
LOGITS = ("logits",)
"""Outputs of a reranker's graph."""

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""How the states of a text's tokens become one vector, by the names that sentence-transformers has for it.
`inference.pooling` and, for the oracle, `proof.oracle` have the formulas."""
MAX_DENSE = 8
"""Layers after the pooling. Published models have one."""
MAX_DENSE_FILE = 64 * 2**20
"""Bytes of a layer's file, which is read whole: 16384 x 1024 values. Published ones have 8192 x 1024."""
ACTIVATIONS = ("identity", "tanh", "relu", "sigmoid")
"""What a layer after the pooling may end with. A reranker's scores end with one of the first and the last."""
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """The size in bytes and the sha256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run the model, such as `cpu-fp32`."""

    graph: str
    weights: tuple[str, ...]
    """The weight files that the graph points into."""
    batch: str
    """One of BATCHES."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = VECTORS
    min_onnxruntime: str
    tolerance: float
    """What the self-check allows. Embedding models: the Euclidean distance of an L2-normalised vector to the
    recorded one. Rerankers: the difference of a logit to the recorded one, relative to it if it is
    above 1."""
    flash_from: int
    """Ragged graphs only: a text of this many tokens or more takes the attention path without a mask. The two
    paths differ in the last bit, so the number is part of the bundle, not of the program that runs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecord:
    """Facts of tokenizer.json; `tokenization.facts` reads them off."""

    drop_ids: tuple[int, ...]
    """Ids of the special tokens (begin, end, padding, unknown), which are never part of a sparse vector."""
    longest_piece: int
    """Characters of the vocabulary's longest piece. 0 where a word must not be cut, because its beginning
    would not provably have the same tokens as in the whole word."""
    splits_on_whitespace: bool
    """Texts are split at whitespace and each word is tokenized by itself."""


EXPANSIONS = ("relu", "log1p_relu")
"""What makes a weight of a masked-language-model head's logit: log(1 + relu(x)), or the same twice."""
MLM_HEAD, QUERY_WEIGHTS = "mlm-head.bin", "query-weights.bin"
"""Files of a sparse encoder, float32, little-endian: W [H, H], b, norm weight, norm bias [H], decoder [V, H],
decoder bias [V] one after the other; the weight of each token in a query [V]."""
MAX_EXPANDED = 64
"""Entries of an expansion that a self-check records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseRecord:
    """A linear layer after the pooling: activation(W v + b)."""

    file: str
    """Its weights: W [outputs, inputs] and b [outputs], float32, little-endian, one after the other."""
    inputs: int
    outputs: int
    activation: str
    """One of ACTIVATIONS."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return 4 * self.outputs * (self.inputs + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """One text and the oracle's outputs for it."""

    text: str
    ids: tuple[int, ...]
    dense: tuple[float, ...]
    """The L2-normalised vector, all dimensions."""
    token_weights: tuple[float, ...]
    """One per token, after ReLU."""
    norm: float = 0.0
    """The vector's length before it is normalised; 0 in bundles built before 2026-11-28."""
    expanded_ids: tuple[int, ...] = ()
    """Of a sparse encoder: the entries of the vocabulary with the largest weights, ascending."""
    expanded_weights: tuple[float, ...] = ()
    """Their weights."""

    def vector(self) -> NDArray[np.float32]:
        """`dense` as an array, float32 [H]."""
        return np.array(self.dense, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCheck:
    """One pair of texts and the oracle's logit for it."""

    query: str
    document: str
    ids: tuple[int, ...]
    logit: float


BOUNDS: Bounds = {
    **ARCHITECTURE_BOUNDS,
    (FileRecord, "size"): (0, 2**40),
    (Variant, "tolerance"): (1e-9, 1),
    (Variant, "flash_from"): (1, 4096),
    (TokenizerRecord, "drop_ids"): (0, 2**24),
    (TokenizerRecord, "longest_piece"): (0, 2**20),
    (DenseRecord, "inputs"): (1, 2**20),
    (DenseRecord, "outputs"): (1, 2**16),
    (SelfCheck, "norm"): (0, 1e9),
    (SelfCheck, "expanded_ids"): (0, 2**24),
    (SelfCheck, "expanded_weights"): (0, 1e9),
    (SelfCheck, "ids"): (0, 2**24),
    (SelfCheck, "dense"): (-1.001, 1.001),
    (SelfCheck, "token_weights"): (0, 1e9),
    (PairCheck, "ids"): (0, 2**24),
    (PairCheck, "logit"): (-1e9, 1e9),
}
"""The least and the most of every number. Those of `Manifest` itself depend on others; see `_check_values`.

A manifest may come from anywhere, and these numbers decide how much is read, hashed and run when a bundle
opens: for example, two texts of `flash_from` tokens are run to measure batch invariance. Two vectors of
length 1 are at most 2 apart, so a tolerance above 1 would accept almost any model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that manifest.json holds but its checksum."""

    format: int = FORMAT
    """The version of the format. In 1 the manifest has no checksum."""
    model: str
    """The model's name."""
    made_by: str
    """The program that built the bundle, with its version."""
    source: str
    """sha256 of the checkpoint's model.safetensors."""
    notice: str
    """A message of the checkpoint to its users, such as that its weights are random; mostly empty."""
    architecture: Architecture
    sparse: bool
    """The checkpoint has a sparse head. Without one the graph's token weights are all zero."""
    smallest_dim: int
    """The shortest length that the model was trained for. Shorter vectors are allowed, with a warning."""
    tokenizer: TokenizerRecord
    files: dict[str, FileRecord]
    variants: dict[str, Variant]
    self_checks: tuple[SelfCheck, ...]
    pair_checks: tuple[PairCheck, ...] = ()
    """Rerankers have `pair_checks`, embedding models `self_checks`."""
    origin: str = ""
    """The checkpoint's repository on the hub, as `owner/name@commit`; empty where it is not known."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Prompts by name. A prompt is put before a text."""
    default_prompt: str = ""
    """The name of the prompt for texts for which no prompt is named; empty for none."""
    unicode: str = "exact"
    """How texts are read where a caller does not say it: "exact", as they are, or "NFC", composed first."""
    pooling: tuple[str, ...] = ("cls",)
    """Some of POOLINGS. The vectors of several are put one after the other."""
    dense: tuple[DenseRecord, ...] = ()
    """Layers after the pooling, in order."""
    normalize: bool = True
    """The checkpoint's own vectors have length 1. Where it is false, `compat` and `integrations` do not
    normalise."""
    max_length: int = 0
    """The length, in tokens, at which texts are cut if a call names none. 0: the number of positions, at most
    8192."""
    truncate_dim: int = 0
    """The length to which vectors are cut if a call names none. 0: they are not cut."""
    similarity: str = "cosine"
    """One of SIMILARITIES: how the checkpoint's own vectors are compared."""
    activation: str = "sigmoid"
    """Rerankers: what sentence-transformers applies to the scores, "sigmoid" or "identity"."""
    expansion: str = ""
    """Sparse vectors are those of a masked-language-model head, in MLM_HEAD: one of EXPANSIONS. Empty: those
    of the head that weights the text's own tokens, if `sparse`."""
    query_weights: bool = False
    """Queries have sparse vectors of their own: the weights of their tokens in QUERY_WEIGHTS."""

    @property
    def dim(self) -> int:
        """Values of a vector that is not cut."""
        if self.dense:
            return self.dense[-1].outputs
        return self.architecture.hidden_size * len(self.pooling)

    @property
    def needs_states(self) -> bool:
        """Vectors are made from the states of all tokens, not only of the first one."""
        return self.pooling != ("cls",)

    @property
    def reranker(self) -> bool:
        """The model scores pairs of texts and returns no vectors."""
        return any(variant.outputs == LOGITS for variant in self.variants.values())

    def to_json(self) -> str:
        """The text of manifest.json."""
        return with_checksum(asdict(self))

    def files_of(self, variant: str) -> tuple[str, ...]:
        """The files that a variant needs to run, tokenizer.json included."""
        chosen = self.variants[variant]
        head = [MLM_HEAD] if self.expansion else []
        queries = [QUERY_WEIGHTS] if self.query_weights else []
        dense = (layer.file for layer in self.dense)
        return ("tokenizer.json", chosen.graph, *chosen.weights, *dense, *head, *queries)


def with_checksum(fields: Mapping[str, Any]) -> str:
    """The text of manifest.json with these fields and, from format 2 on, the checksum as the last one.

    The checksum is the sha256 of the file itself in which its own 64 digits are zeros. So it covers every
    other byte, also those that change nothing for a reader of JSON.
    """
    body = {name: value for name, value in fields.items() if name != CHECKSUM}
    if body["format"] == 1:
        return json.dumps(body, ensure_ascii=False, indent=1) + "\n"
    text = json.dumps({**body, CHECKSUM: UNKNOWN}, ensure_ascii=False, indent=1) + "\n"
    return _with_digits(text, UNKNOWN, hashlib.sha256(text.encode()).hexdigest())


def _with_digits(text: str, digits: str, others: str) -> str:
    """Replace the last occurrence, which is the checksum's: it is the last field."""
    head, found, tail = text.rpartition(digits)
    return head + others + tail if found else text


def _check_checksum(text: str, recorded: object) -> None:
    if not isinstance(recorded, str) or not SHA256.fullmatch(recorded):
        raise BundleCorruptError(
            FILE, expected=f"a {CHECKSUM} in 64 hexadecimal digits", got=repr(recorded)[:80]
        )
    found = hashlib.sha256(_with_digits(text, recorded, UNKNOWN).encode()).hexdigest()
    if found != recorded:
        raise BundleCorruptError(
            FILE, expected=f"{CHECKSUM} {recorded[:12]}… of its own bytes", got=f"{found[:12]}…"
        )


def parse_manifest(data: bytes) -> Manifest:
    """Parse and check the bytes of manifest.json.

    Raises:
        BundleCorruptError: too large, not JSON, another checksum than recorded, a duplicate, unknown or
            missing key, or a wrong type or value.
        BundleVersionError: another format number.
        BundleError: a variant has a kind of batch that this version does not know.
    """
    if len(data) > MAX_BYTES:
        raise BundleCorruptError(FILE, expected=f"at most {MAX_BYTES} bytes", got=f"{len(data)}")
    try:
        text = data.decode("utf-8")
        raw = parse_json(data)
    except ValueError as error:
        raise BundleCorruptError(
            FILE, expected="JSON in UTF-8 without a byte order mark", got=str(error)[:120]
        ) from None
    if not isinstance(raw, dict):
        raise BundleCorruptError(FILE, expected="an object", got=type(raw).__name__)
    version = raw.get("format")
    if type(version) is not int or version not in FORMATS:
        raise BundleVersionError(
            f"{FILE} has format {shown(version)}, this version of gte-runtime reads "
            f"{' and '.join(map(str, FORMATS))}; build the bundle again or upgrade"
        )
    if version > 1:
        _check_checksum(text, raw.pop(CHECKSUM, None))
    try:
        manifest: Manifest = read_as(Manifest, raw, bounds=BOUNDS)
    except ValueError as error:
        raise BundleCorruptError(
            FILE, expected=f"the fields of format {version}", got=str(error)[:120]
        ) from None
    _check_names(manifest)
    _check_values(manifest)
    return manifest


def _check_names(manifest: Manifest) -> None:
    """Every file that is named has a plain name and is listed in `files`."""
    mentioned = [file for name in manifest.variants for file in manifest.files_of(name)]
    for file in (*manifest.files, *mentioned):
        if not PLAIN_NAME.fullmatch(file):
            raise BundleCorruptError(FILE, expected="plain file names", got=repr(file)[:80])
    for name in manifest.variants:
        _expect(PLAIN_NAME.fullmatch(name), "plain names of variants", repr(name))
    for file in mentioned:
        if file not in manifest.files:
            raise BundleCorruptError(FILE, expected=f"{file} in the list of files", got="no entry for it")


def _check_values(manifest: Manifest) -> None:
    a = manifest.architecture
    _expect(
        a.hidden_size % a.heads == 0, "heads that share the width evenly", f"{a.heads} for {a.hidden_size}"
    )
    _expect(
        0 < manifest.smallest_dim <= manifest.dim,
        f"smallest_dim from 1 to {manifest.dim}",
        f"{manifest.smallest_dim}",
    )
    for name, record in manifest.files.items():
        _expect(
            SHA256.fullmatch(record.sha256),
            f"files.{name}.sha256 in 64 hexadecimal digits",
            repr(record.sha256),
        )
    _expect(manifest.unicode in FORMS, f"unicode to be {' or '.join(FORMS)}", repr(manifest.unicode))
    known = manifest.default_prompt in ("", *manifest.prompts)
    _expect(known, "default_prompt among the prompts", repr(manifest.default_prompt))
    count = len(manifest.variants)
    _expect(count, "at least one variant", "none")
    _expect(count <= MAX_VARIANTS, f"at most {MAX_VARIANTS} variants", f"{count}")
    _check_head(manifest)
    _check_expansion(manifest)
    used = {file for name in manifest.variants for file in manifest.files_of(name)}
    for file in manifest.files:
        _expect(file in used, "only files that a variant uses", file)
    for name, variant in manifest.variants.items():
        if variant.batch not in BATCHES:
            kind = repr(variant.batch)[:80]
            raise BundleError(
                f"{FILE}: variant {name} has batches of kind {kind}; this version knows {', '.join(BATCHES)}"
            )
        at = f"variants.{name}"
        _expect(
            VERSION.fullmatch(variant.min_onnxruntime),
            f"{at}.min_onnxruntime such as 1.24",
            repr(variant.min_onnxruntime),
        )
        _expect(variant.weights and variant.inputs, f"weights and inputs in {at}", "none")
        expected = (
            (LOGITS,)
            if manifest.reranker
            else (STATES,)
            if manifest.needs_states or manifest.expansion
            else (VECTORS, STATES)
        )
        _expect(
            variant.outputs in expected,
            f"{', '.join(expected[-1])} in {at}.outputs",
            ", ".join(variant.outputs),
        )
        _expect(
            variant.batch != "ragged" or variant.flash_from <= a.max_positions,
            f"{at}.flash_from up to {a.max_positions}, the number of positions",
            f"{variant.flash_from}",
        )
        for file, most in (("tokenizer.json", MAX_TOKENIZER), (variant.graph, MAX_GRAPH)):
            size = manifest.files[file].size
            _expect(size <= most, f"files.{file}.size up to {most}", f"{size}")
    _expect(
        manifest.pair_checks if manifest.reranker else manifest.self_checks, "at least one self-check", "none"
    )
    checks: list[SelfCheck | PairCheck] = [*manifest.self_checks, *manifest.pair_checks]
    _expect(len(checks) <= MAX_CHECKS, f"at most {MAX_CHECKS} self-checks", f"{len(checks)}")
    longest = min(MAX_CHECK_IDS, a.max_positions)
    for one in checks:
        _expect(1 <= len(one.ids) <= longest, f"1 to {longest} ids in each self-check", f"{len(one.ids)} ids")
    for number in (*manifest.tokenizer.drop_ids, *(number for one in checks for number in one.ids)):
        _expect(number < a.vocab_size, f"ids below {a.vocab_size}, the size of the vocabulary", f"{number}")
    for check in manifest.self_checks:
        _expect(
            len(check.dense) == manifest.dim,
            f"{manifest.dim} values in each self_check",
            f"{len(check.dense)}",
        )
        _expect(
            len(check.token_weights) == len(check.ids),
            "one weight per token in each self_check",
            f"{len(check.token_weights)}",
        )


def _check_expansion(manifest: Manifest) -> None:
    """What a sparse encoder has beside its graphs."""
    h, v = manifest.architecture.hidden_size, manifest.architecture.vocab_size
    kinds = ("", *EXPANSIONS)
    _expect(manifest.expansion in kinds, f"expansion of {', '.join(EXPANSIONS)}", repr(manifest.expansion))
    _expect(not (manifest.expansion and manifest.reranker), "no expansion in a reranker", manifest.expansion)
    _expect(not manifest.expansion or manifest.sparse, "sparse vectors where there is an expansion", "none")
    _expect(
        not manifest.query_weights or manifest.expansion, "an expansion where there are query_weights", "none"
    )
    sizes = {MLM_HEAD: 4 * (h * h + 3 * h + v * h + v), QUERY_WEIGHTS: 4 * v}
    for name in (name for name in sizes if name in manifest.files):
        size = manifest.files[name].size
        _expect(size == sizes[name], f"files.{name}.size {sizes[name]}", f"{size}")
    for check in manifest.self_checks:
        count = len(check.expanded_ids)
        _expect(
            count == len(check.expanded_weights) and count <= MAX_EXPANDED,
            f"up to {MAX_EXPANDED} expanded_ids and as many expanded_weights",
            f"{count} and {len(check.expanded_weights)}",
        )
        for number in check.expanded_ids:
            _expect(number < v, f"expanded_ids below {v}, the size of the vocabulary", f"{number}")


def _check_head(manifest: Manifest) -> None:
    """What follows the encoder: pooling, layers, and the settings of calls."""
    modes = manifest.pooling
    _expect(
        modes and set(modes) <= set(POOLINGS) and len(set(modes)) == len(modes),
        f"in pooling different ones of {', '.join(POOLINGS)}",
        ", ".join(modes) or "none",
    )
    _expect(
        len(manifest.dense) <= MAX_DENSE, f"at most {MAX_DENSE} layers in dense", f"{len(manifest.dense)}"
    )
    width = manifest.architecture.hidden_size * len(modes)
    for place, layer in enumerate(manifest.dense):
        at = f"dense.{place}"
        _expect(layer.inputs == width, f"{at}.inputs {width}, as before it", f"{layer.inputs}")
        _expect(
            layer.activation in ACTIVATIONS, f"{at}.activation of {', '.join(ACTIVATIONS)}", layer.activation
        )
        size = manifest.files[layer.file].size
        _expect(
            size == layer.size <= MAX_DENSE_FILE,
            f"files.{layer.file}.size {layer.size} and at most {MAX_DENSE_FILE}",
            f"{size}",
        )
        width = layer.outputs
    positions = manifest.architecture.max_positions
    _expect(manifest.max_length <= positions, f"max_length up to {positions}", f"{manifest.max_length}")
    _expect(manifest.truncate_dim <= width, f"truncate_dim up to {width}", f"{manifest.truncate_dim}")
    _expect(
        manifest.similarity in SIMILARITIES, f"similarity of {', '.join(SIMILARITIES)}", manifest.similarity
    )
    _expect(
        manifest.activation in ("sigmoid", "identity"), "activation sigmoid or identity", manifest.activation
    )
    _expect(
        not (manifest.reranker and (modes != ("cls",) or manifest.dense)), "no pooling in a reranker", "one"
    )


def _expect(condition: object, expected: str, found: str) -> None:
    if not condition:
        raise BundleCorruptError(FILE, expected=expected, got=found[:80])
