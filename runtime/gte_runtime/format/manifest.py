"""What a bundle promises, as a value. Pure: text in, checked values out, and back.

The format is documented in models/README.md. A reader refuses what it does not understand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, is_dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleCorruptError, BundleError, BundleVersionError
from .architecture import Architecture

FORMAT = 1
FILE = "manifest.json"
MAX_BYTES = 1_000_000
"""A manifest is some 50 kB. Anything far larger is not one, and is not read."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
"""Files of a bundle lie in its directory and nowhere else."""

BATCHES = ("ragged", "packed", "padded")
"""How texts of one run lie side by side: in a row with two ways through attention; in a row with one; padded to the longest."""

SHA256 = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}")

VECTORS = ("cls", "token_weights")
LOGITS = ("logits",)
"""What a graph gives: an embedding model's vectors, or a reranker's scores."""
STATES = (*VECTORS, "token_states")
"""With the states of all tokens, which graphs give since 2026-11-27. They are fetched only when asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run."""

    graph: str
    weights: tuple[str, ...]
    """The weight files the graph points into."""
    batch: str
    """One of BATCHES."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = VECTORS
    min_onnxruntime: str
    tolerance: float
    """Largest Euclidean distance of a normalised vector to the self-check's; of a reranker, largest difference of a
    logit, as a share of it where it is above 1."""
    flash_from: int
    """Ragged graphs only: texts of this many tokens and more take the path without mask. Two paths
    differ in the last bit, so the number belongs to the bundle, not to the program that runs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecord:
    drop_ids: tuple[int, ...]
    """cls, eos, pad and unk: never part of a sparse vector."""
    longest_piece: int
    """Characters of the longest piece after normalisation; 0 where texts must not be cut between spaces."""
    splits_on_whitespace: bool
    """A word's tokens do not depend on the words around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """One text and what the oracle says of it."""

    text: str
    ids: tuple[int, ...]
    dense: tuple[float, ...]
    """Normalised, all dimensions."""
    token_weights: tuple[float, ...]
    """One per token, after ReLU."""

    def vector(self) -> NDArray[np.float32]:
        return np.array(self.dense, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCheck:
    """One pair and what the oracle says of it."""

    query: str
    document: str
    ids: tuple[int, ...]
    logit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    model: str
    made_by: str
    source: str
    """sha256 of the checkpoint's model.safetensors."""
    notice: str
    """What the checkpoint says to whoever runs it; mostly empty."""
    architecture: Architecture
    sparse: bool
    """The checkpoint has a sparse head; without one the graph's token weights are zeros."""
    smallest_dim: int
    """The shortest vector that was trained for; shorter ones are given, with a warning."""
    tokenizer: TokenizerRecord
    files: dict[str, FileRecord]
    variants: dict[str, Variant]
    self_checks: tuple[SelfCheck, ...]
    pair_checks: tuple[PairCheck, ...] = ()
    """Rerankers have these, embedding models the others."""
    origin: str = ""
    """Where the checkpoint came from, as `owner/name@commit` of the hub; empty where that is not known."""
    prompts: dict[str, str] = field(default_factory=dict)
    """What is put before a text, by name."""
    default_prompt: str = ""
    """The prompt for texts of which nothing is said; empty for none."""

    @property
    def reranker(self) -> bool:
        return any(variant.outputs == LOGITS for variant in self.variants.values())

    def to_json(self) -> str:
        body = {"format": FORMAT, **asdict(self)}
        return json.dumps(body, ensure_ascii=False, indent=1) + "\n"

    def files_of(self, variant: str) -> tuple[str, ...]:
        """Files that must be there to run a variant, the tokenizer among them."""
        chosen = self.variants[variant]
        return ("tokenizer.json", chosen.graph, *chosen.weights)


def parse_manifest(data: bytes) -> Manifest:
    """Read manifest.json.

    Raises:
        BundleCorruptError: too large, not JSON, a key twice, a key or type that is not in the format.
        BundleVersionError: another format number.
    """
    if len(data) > MAX_BYTES:
        raise BundleCorruptError(FILE, expected=f"at most {MAX_BYTES} bytes", got=f"{len(data)}")
    try:
        raw = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError(
            FILE, expected="JSON in UTF-8 without a byte order mark", got=str(error)[:120]
        ) from None
    if not isinstance(raw, dict):
        raise BundleCorruptError(FILE, expected="an object", got=type(raw).__name__)
    version = raw.pop("format", None)
    if type(version) is not int or version != FORMAT:
        raise BundleVersionError(
            f"{FILE} has format {repr(version)[:80]}, this version of gte-runtime reads {FORMAT}; build the bundle again or upgrade"
        )
    try:
        manifest: Manifest = _read(Manifest, raw, "")
    except ValueError as error:
        raise BundleCorruptError(FILE, expected="the fields of format 1", got=str(error)[:120]) from None
    _check_names(manifest)
    _check_values(manifest)
    return manifest


def _read(kind: Any, raw: Any, at: str) -> Any:
    """A value of the format from one of JSON. Nothing vouches for a manifest itself, so every type is checked.

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
    if (
        kind is float and type(raw) in (int, float) and abs(raw) < 2**63
    ):  # so neither NaN nor infinity, which Python reads
        return float(raw)
    if kind is int and type(raw) is int and 0 <= raw < 2**63:
        return raw
    if kind is str and isinstance(raw, str):
        raw.encode()  # half a surrogate pair is a ValueError
        return raw
    if kind is bool and isinstance(raw, bool):
        return raw
    raise ValueError(f"{at.removesuffix('.')} = {raw!r}")


_fields = cache(get_type_hints)


@cache
def _optional(kind: type) -> frozenset[str]:
    """Fields that came to the format later: a bundle may lack them."""
    return frozenset(
        f.name for f in dataclass_fields(kind) if f.default is not MISSING or f.default_factory is not MISSING
    )


def _check_names(manifest: Manifest) -> None:
    """Only plain names of listed files, so that no path leads out of the directory."""
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
