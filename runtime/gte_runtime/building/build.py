"""Builds a bundle from a checkpoint and the graphs of its architecture, without PyTorch or onnx.

Weights are streamed, so only a few tensors are in memory at a time. Everything is written into a staging
directory, the manifest last, after every variant has agreed with the oracle. Then the directory gets its
name, so a bundle is complete or not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bundle.directory import LFS_POINTER
from ..checkpoint.modules import Settings, read_settings
from ..checkpoint.tensors import Checkpoint
from ..errors import (
    BundleCorruptError,
    BundleError,
    CheckpointError,
    ConfigError,
    GteError,
    OutOfMemory,
    OutputError,
    SelfCheckFailed,
)
from ..format import manifest as manifests
from ..format.manifest import FileRecord, Manifest, Variant
from ..format.models import models_directory
from ..format.recipe import GraphRecipe, Recipe, find_graphs
from ..machine.files import read_regular
from ..tokenization import Tokenizer
from ..version import __version__
from .answers import Answer, compute_answers, largest_inputs
from .int8 import has_outliers
from .judge import prove
from .material import material_of
from .publish import publish, staging, sync
from .weights import write_weights
from .write import sha256_of, write

FLASH_FROM = 128
"""Texts of this many tokens or more take the attention path without a mask. Measured on 2 cores; see
benchmarks/NOTES-cpu.md."""

TRAINED_DIM = 128
"""The shortest vector length in the card of gte-multilingual-base, taken where a checkpoint names none."""

CLOSE_ENOUGH = 0.0316
"""The distance to the oracle, a cosine of 0.9995, up to which the form for outlying channels is not tried."""

DEFAULT_VARIANTS = ("cpu-fp32",)


def build(
    checkpoint: Path,
    bundle: Path,
    *,
    graphs: Path | None = None,
    variants: Sequence[str] = DEFAULT_VARIANTS,
    ignore_unused: bool = False,
    overwrite: bool = False,
    keep_existing: bool = False,
    origin: str = "",
    name: str | None = None,
    prompts: Mapping[str, str] | None = None,
) -> Manifest:
    """Turn a checkpoint directory into a bundle directory.

    Args:
        checkpoint: a directory with config.json, model.safetensors and tokenizer.json, as the hub ships them.
        bundle: the directory to make, which must not exist yet.
        graphs: the directory of the traced graphs; by default those that ship with the package.
        variants: the variants to build, such as "cpu-fp32".
        ignore_unused: accept tensors that the architecture does not use, and unknown keys of config.json.
        overwrite: replace an existing bundle.
        keep_existing: if there is a bundle already, or another process finishes it first, keep that one.
        origin: the repository of the checkpoint, as `owner/name@commit`.
        name: the model's name; by default that of the checkpoint's directory, or of the repository for a
            snapshot in the hub's cache.
        prompts: prompts by name, for a checkpoint that has none.

    Returns:
        The manifest of the bundle.

    Raises:
        CheckpointError: a file is missing, or a tensor is missing, not used or of another shape.
        ConfigError: there is no graph for a variant.
        BundleError: a graph or layout is missing, or differs from what its recipe records.
        SelfCheckFailed: a variant differs from the oracle by more than its tolerance.
        OutputError: the directory exists already, or cannot be written.
    """
    _check_target(bundle, overwrite=overwrite, keep_existing=keep_existing)
    with Checkpoint(checkpoint, ignore_unused=ignore_unused) as opened:
        source, recipe = find_graphs(
            opened.config.architecture, graphs, shipped=models_directory(), reranker=opened.reranker
        )
        chosen = _choose(recipe, variants, opened.table_dtype)
        settings = read_settings(checkpoint)
        if prompts and not settings.prompts:
            settings = Settings(dict(prompts))
        tokenizer_json = _tokenizer_json(checkpoint)
        tokenizer = _checked_tokenizer(tokenizer_json, opened)
        try:
            bundle.parent.mkdir(parents=True, exist_ok=True)
            with staging(bundle) as temporary:
                answers = compute_answers(opened, tokenizer)
                inputs = Inputs(opened, source, tokenizer, tokenizer_json, answers, settings, name, origin)
                staged, manifest, _ = _best(temporary, inputs, recipe, chosen)
                write(staged / manifests.FILE, [manifest.to_json().encode()])
                sync(staged)
                publish(staged, bundle, overwrite=overwrite, keep_existing=keep_existing)
        except GteError:
            raise
        except MemoryError:
            raise OutOfMemory("not enough memory to build this checkpoint") from None
        except OSError as error:
            raise OutputError(f"{bundle.name[:80]} could not be written: {error.strerror or error}") from None
    return manifest


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a bundle is made from, whichever graphs are chosen."""

    checkpoint: Checkpoint
    graphs: Path
    tokenizer: Tokenizer
    tokenizer_json: bytes
    answers: tuple[Answer, ...]
    settings: Settings
    name: str | None
    origin: str

    @property
    def largest(self) -> dict[str, NDArray[np.floating]]:
        """See `largest_inputs`."""
        return largest_inputs(self.answers)


class Staged(NamedTuple):
    """A complete bundle without its manifest file, in the staging directory."""

    directory: Path
    manifest: Manifest
    distances: dict[str, float]
    """{variant: its largest distance to the oracle}."""


def _best(folder: Path, inputs: Inputs, recipe: Recipe, chosen: Sequence[GraphRecipe]) -> Staged:
    """Stage the bundle with its ordinary graphs and, if need be, with those for outlying channels.

    Returns the one that is closer to the oracle. The second is tried if the first is further from the oracle
    than CLOSE_ENOUGH and the checkpoint has outliers.

    Raises:
        SelfCheckFailed: neither is within the tolerance.
    """
    forms = [list(chosen)]
    swapped = [_swapped(graph, recipe) for graph in chosen]
    if swapped != forms[0] and has_outliers(inputs.largest):
        forms.append(swapped)
    found: list[Staged] = []
    failure: SelfCheckFailed | None = None
    for number, graphs in enumerate(forms):
        try:
            found.append(_stage(folder / str(number), inputs, graphs))
        except SelfCheckFailed as error:
            failure = failure or error
            continue
        if max(found[-1].distances.values()) <= CLOSE_ENOUGH:
            return found[-1]
    if failure is not None and not found:
        raise failure
    return min(found, key=lambda staged: max(staged.distances.values()))


def _swapped(graph: GraphRecipe, recipe: Recipe) -> GraphRecipe:
    """The variant's graph for outlying channels; the given one where there is none."""
    return recipe.choose(graph.variant, graph.table, outliers=True) or graph


def _stage(staged: Path, inputs: Inputs, chosen: Sequence[GraphRecipe]) -> Staged:
    """Write all files of a bundle but its manifest, and compare each variant with the oracle."""
    staged.mkdir()
    files = {"tokenizer.json": write(staged / "tokenizer.json", [inputs.tokenizer_json])}
    files |= _write_graphs(staged, inputs.graphs, chosen)
    files |= write_weights(staged, inputs.graphs, chosen, material_of(inputs.checkpoint, inputs.largest))
    manifest = _manifest(inputs.checkpoint, inputs.tokenizer, chosen, files, inputs.answers)
    manifest = replace(
        manifest,
        model=inputs.name or manifest.model,
        origin=inputs.origin,
        prompts=inputs.settings.prompts,
        default_prompt=inputs.settings.default_prompt,
    )
    _check_manifest(manifest)
    return Staged(
        staged,
        manifest,
        {name: prove(staged, manifest, name, inputs.tokenizer) for name in manifest.variants},
    )


def _check_target(bundle: Path, *, overwrite: bool, keep_existing: bool) -> None:
    """Raises OutputError if there is something in the bundle's place that must not be replaced."""
    try:
        there, is_bundle = bundle.exists(), (bundle / manifests.FILE).exists()
    except OSError as error:
        raise OutputError(f"{bundle.name[:80]} could not be written: {error.strerror}") from None
    if there and not (overwrite or keep_existing):
        raise OutputError(f"{bundle.name} exists already; choose another name or pass --overwrite")
    if there and not is_bundle:
        raise OutputError(
            f"{bundle.name} is no bundle (it has no {manifests.FILE}) and is not replaced; "
            "choose another name"
        )


def _choose(recipe: Recipe, variants: Iterable[str], table: str) -> list[GraphRecipe]:
    """The ordinary graph of each variant. Raises ConfigError where there is none."""
    chosen = []
    for name in dict.fromkeys(variants):
        graph = recipe.choose(name, table)
        if graph is None:
            raise ConfigError(
                f"no graph for variant {name!r}; {recipe.name} has {', '.join(recipe.variants)}"
            )
        chosen.append(graph)
    if not chosen:
        raise ConfigError(f"no variant was named; {recipe.name} has {', '.join(recipe.variants)}")
    return chosen


def _tokenizer_json(checkpoint: Path) -> bytes:
    try:
        data = read_regular(checkpoint / "tokenizer.json", manifests.MAX_TOKENIZER)
    except FileNotFoundError:
        raise CheckpointError(
            f"no tokenizer.json in {checkpoint.name}; "
            "the tokenizer belongs to the checkpoint and is not replaced"
        ) from None
    except OSError as error:
        raise CheckpointError(f"tokenizer.json cannot be read: {error.strerror or error}") from None
    if data.startswith(LFS_POINTER):
        raise CheckpointError("tokenizer.json is a Git LFS pointer, not the file itself; run git lfs pull")
    return data


def _checked_tokenizer(data: bytes, checkpoint: Checkpoint) -> Tokenizer:
    tokenizer = Tokenizer(data)
    try:
        tokenizer.check_ids(checkpoint.config.architecture.vocab_size)
    except BundleError as error:
        raise CheckpointError(str(error)) from None
    return tokenizer


def _write_graphs(staged: Path, source: Path, chosen: Iterable[GraphRecipe]) -> dict[str, FileRecord]:
    files = {}
    for graph in chosen:
        try:
            data = read_regular(source / graph.file, manifests.MAX_GRAPH)
        except OSError:
            raise BundleCorruptError(
                graph.file,
                expected=f"a graph in {source.name}",
                got="nothing",
                hint="trace the architecture again",
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if found != graph.sha256:
            raise BundleCorruptError(
                graph.file,
                expected=f"sha256 {graph.sha256[:12]}…",
                got=f"{found[:12]}…",
                hint="trace the architecture again",
            )
        files[_graph_name(graph)] = write(staged / _graph_name(graph), [data])
    return files


def _name_of(directory: Path) -> str:
    """Of models--OWNER--NAME/snapshots/COMMIT it is NAME, because a commit says nothing to users."""
    repository = directory.parent.parent.name
    if directory.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return directory.name


def _manifest(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    chosen: Iterable[GraphRecipe],
    files: dict[str, FileRecord],
    answers: Iterable[Answer],
) -> Manifest:
    config = checkpoint.config
    return Manifest(
        model=_name_of(checkpoint.directory.resolve()),
        made_by=f"gte-runtime {__version__}",
        source=sha256_of(checkpoint.directory / "model.safetensors"),
        notice=config.notice,
        architecture=config.architecture,
        sparse=checkpoint.has_sparse_head,
        smallest_dim=config.trained_dims[0]
        if config.trained_dims
        else min(TRAINED_DIM, config.architecture.hidden_size // 2),
        tokenizer=tokenizer.record,
        files=files,
        variants={graph.variant: _variant(graph, config.architecture.max_positions) for graph in chosen},
        self_checks=tuple(answer.self_check() for answer in answers if answer.pair is None),
        pair_checks=tuple(answer.pair_check() for answer in answers if answer.pair is not None),
    )


def _check_manifest(manifest: Manifest) -> None:
    """Raises CheckpointError for a manifest that no reader would accept, such as one with prompts of a
    megabyte."""
    try:
        manifests.parse_manifest(manifest.to_json().encode())
    except UnicodeEncodeError:
        found = "a name, notice or prompt with a lone surrogate, which UTF-8 cannot encode"
    except BundleCorruptError as error:
        found = f"{error.got}, the format allows {error.expected}"
    else:
        return
    raise CheckpointError(f"the bundle of this checkpoint could not be opened: its manifest has {found}")


def _variant(graph: GraphRecipe, positions: int) -> Variant:
    return Variant(
        graph=_graph_name(graph),
        weights=graph.weights,
        batch=graph.batch,
        inputs=graph.inputs,
        outputs=graph.outputs,
        min_onnxruntime=graph.min_onnxruntime,
        tolerance=graph.tolerance,
        flash_from=min(FLASH_FROM, positions),
    )


def _graph_name(graph: GraphRecipe) -> str:
    return f"{graph.variant}.onnx"
