"""The manifest of a bundle: its files and how to run them. Pure: JSON in, checked values out, and back.

The format is documented in models/README.md. An unknown field or a value out of its range is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, is_dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleCorruptError, BundleError, BundleVersionError
from .architecture import Architecture

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

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
"""A file name without a path, so that no file outside of the bundle's directory can be named."""

BATCHES = ("ragged", "packed", "padded")
"""How the texts of a batch are laid out. `ragged` and `packed`: concatenated, without padding. A ragged graph
has two attention paths (see `Variant.flash_from`), a packed one has one, which needs CUDA. `padded`: all
padded to the longest."""

SHA256 = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}")

VECTORS = ("cls", "token_weights")
"""Outputs of an embedding model's graph."""
STATES = (*VECTORS, "token_states")
"""Outputs of graphs traced since 2026-11-27: also the states of all tokens, fetched only on request."""
LOGITS = ("logits",)
"""Outputs of a reranker's graph."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """One text and the oracle's outputs for it."""

    text: str
    ids: tuple[int, ...]
    dense: tuple[float, ...]
    """The L2-normalised vector, all dimensions."""
    token_weights: tuple[float, ...]
    """One per token, after ReLU."""

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
        return ("tokenizer.json", chosen.graph, *chosen.weights)


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
        raw = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError(
            FILE, expected="JSON in UTF-8 without a byte order mark", got=str(error)[:120]
        ) from None
    if not isinstance(raw, dict):
        raise BundleCorruptError(FILE, expected="an object", got=type(raw).__name__)
    version = raw.get("format")
    if type(version) is not int or version not in FORMATS:
        raise BundleVersionError(
            f"{FILE} has format {repr(version)[:80]}, this version of gte-runtime reads "
            f"{' and '.join(map(str, FORMATS))}; build the bundle again or upgrade"
        )
    if version > 1:
        _check_checksum(text, raw.pop(CHECKSUM, None))
    try:
        manifest: Manifest = _read(Manifest, raw, "")
    except ValueError as error:
        raise BundleCorruptError(
            FILE, expected=f"the fields of format {version}", got=str(error)[:120]
        ) from None
    _check_names(manifest)
    _check_values(manifest)
    return manifest


def _read(kind: Any, raw: Any, at: str) -> Any:
    """Convert a JSON value to a type of the format.

    A manifest's checksum tells damage, not malice, so every type is checked.

    Args:
        kind: a dataclass of this module, or the type of one of its fields.
        raw: the JSON value.
        at: the path to it, for errors: empty, or ending with a dot.

    Raises:
        ValueError: naming the field that is missing, unknown or of another type.
    """
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(raw, dict):
        fields = _fields(kind)
        if odd := (fields.keys() ^ raw.keys()) - (_optional(kind) - raw.keys()):
            name = min(odd)
            raise ValueError(f"no {at}{name}" if name in fields else f"an unknown {at}{name}")
        return kind(**{name: _read(fields[name], value, f"{at}{name}.") for name, value in raw.items()})
    if get_origin(kind) is tuple and isinstance(raw, list):
        return tuple(_read(get_args(kind)[0], item, at) for item in raw)
    if get_origin(kind) is dict and isinstance(raw, dict):
        return {key: _read(get_args(kind)[1], value, f"{at}{key}.") for key, value in raw.items()}
    if kind is float and type(raw) in (int, float) and abs(raw) < 2**63:
        return float(raw)  # the bound also excludes NaN and infinity, which Python's json accepts
    if kind is int and type(raw) is int and 0 <= raw < 2**63:
        return raw
    if kind is str and isinstance(raw, str):
        raw.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
        return raw
    if kind is bool and isinstance(raw, bool):
        return raw
    raise ValueError(f"{at.removesuffix('.')} = {raw!r}")


_fields = cache(get_type_hints)


@cache
def _optional(kind: type) -> frozenset[str]:
    """Fields that were added to the format later, which have defaults: a manifest may lack them."""
    return frozenset(
        f.name for f in dataclass_fields(kind) if f.default is not MISSING or f.default_factory is not MISSING
    )


def _check_names(manifest: Manifest) -> None:
    """Every file that is named has a plain name and is listed in `files`."""
    mentioned: Iterable[str] = [file for name in manifest.variants for file in manifest.files_of(name)]
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
    for name, value in asdict(a).items():
        least, below = (0, 1) if name == "layer_norm_eps" else (1, 2**31)
        _expect(least <= value < below, f"architecture.{name} from {least} to below {below}", f"{value}")
    _expect(
        a.hidden_size % a.heads == 0, "heads that share the width evenly", f"{a.heads} for {a.hidden_size}"
    )
    _expect(
        0 < manifest.smallest_dim <= a.hidden_size,
        f"smallest_dim from 1 to {a.hidden_size}",
        f"{manifest.smallest_dim}",
    )
    for name, record in manifest.files.items():
        _expect(
            SHA256.fullmatch(record.sha256),
            f"files.{name}.sha256 in 64 hexadecimal digits",
            repr(record.sha256),
        )
    known = manifest.default_prompt in ("", *manifest.prompts)
    _expect(known, "default_prompt among the prompts", repr(manifest.default_prompt))
    _expect(manifest.variants, "at least one variant", "none")
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
        _expect(variant.tolerance > 0, f"a positive {at}.tolerance", f"{variant.tolerance}")
        expected = (LOGITS,) if manifest.reranker else (VECTORS, STATES)
        _expect(
            variant.outputs in expected,
            f"{', '.join(expected[-1])} in {at}.outputs",
            ", ".join(variant.outputs),
        )
        _expect(variant.flash_from > 0, f"a positive {at}.flash_from", f"{variant.flash_from}")
    _expect(
        manifest.pair_checks if manifest.reranker else manifest.self_checks, "at least one self-check", "none"
    )
    for check in manifest.self_checks:
        _expect(
            len(check.dense) == a.hidden_size,
            f"{a.hidden_size} values in each self_check",
            f"{len(check.dense)}",
        )
        _expect(
            len(check.token_weights) == len(check.ids),
            "one weight per token in each self_check",
            f"{len(check.token_weights)}",
        )


def _expect(condition: object, expected: str, found: str) -> None:
    if not condition:
        raise BundleCorruptError(FILE, expected=expected, got=found[:80])


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result
