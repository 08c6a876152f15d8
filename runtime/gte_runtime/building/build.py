"""Builds a bundle from a checkpoint and the graphs of its architecture, without PyTorch or onnx.

Weights are streamed, so only a few tensors are in memory at a time. Everything is written into a staging
directory, the manifest last, after every variant has agreed with the oracle. Then the directory gets its
name, so a bundle is complete or not there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.modules import Settings, read_settings
from ..checkpoint.tensors import Checkpoint
from ..checkpoint.tokenizer import read_tokenizer
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
from ..format.manifest import STATES, DenseRecord, FileRecord, Manifest, Variant
from ..format.models import models_directory
from ..format.recipe import GraphRecipe, Recipe, find_graphs
from ..machine.files import read_regular, sync
from ..tokenization import DEFAULT_LENGTH, EXACT, Form, Tokenizer
from ..version import __version__
from .answers import Answer, activation_of, compute_answers, largest_inputs, short_ids, text_vector
from .int8 import has_outliers
from .judge import prove
from .kept import MOST, keep_in_float, rounding_errors, share_of
from .material import CHUNK_ROWS, material_of
from .publish import publish, staging
from .resize import resize_layout
from .weights import fit_graph, read_layouts, write_weights
from .write import sha256_of, write

FLASH_FROM = 128
"""Texts of this many tokens or more take the attention path without a mask. Measured on 2 cores; see
benchmarks/NOTES-cpu.md."""

TRAINED_DIM = 128
"""The shortest vector length in the card of gte-multilingual-base, taken where a checkpoint names none."""

CLOSE_ENOUGH = 0.0316
"""The distance to the oracle, a cosine of 0.9995, up to which the form for outlying channels is not tried."""

PROMISED = 0.0447
"""The distance of a cosine of 0.999, which int8 promises for ordinary weights (docs/decisions/int8.md)."""

MARGINS = (0.7, 0.4)
"""Parts of the wanted distance that the simulation may leave, tried in this order. It sees the short texts
only, and errors of several products do not quite add up by their squares."""

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
    unicode: Form = EXACT,
    tell: Callable[[str], object] = lambda line: None,
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
        unicode: how the bundle reads texts where a caller does not say it: "exact" or "NFC".
        tell: called with a line for what a user should know: which products of `cpu-int8` stay in float32,
            or that it is missing and why.

    Returns:
        The manifest of the bundle. It lacks `cpu-int8` where the checkpoint is not suited to it and other
        variants were asked for too.

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
        settings = read_settings(opened.folder, reranker=opened.reranker, ignore_unknown=ignore_unused)
        _check_settings(settings, opened, chosen)
        _check_expansion(settings, opened, chosen)
        if prompts and not settings.prompts:
            settings = replace(settings, prompts=dict(prompts))
        tokenizer_json = read_tokenizer(opened.folder, opened.encoder, settings.lower_case)
        tokenizer = _checked_tokenizer(tokenizer_json, opened)
        try:
            bundle.parent.mkdir(parents=True, exist_ok=True)
            with staging(bundle) as temporary:
                answers = compute_answers(opened, tokenizer, settings)
                inputs = Inputs(
                    opened, source, tokenizer, tokenizer_json, answers, settings, name, origin, unicode
                )
                best = _best(temporary, inputs, recipe, chosen, tell)
                write(best.directory / manifests.FILE, [best.manifest.to_json().encode()])
                sync(best.directory)
                publish(best.directory, bundle, overwrite=overwrite, keep_existing=keep_existing)
                manifest = best.manifest
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
    unicode: Form

    def vector(self, hidden: NDArray[np.floating]) -> NDArray[np.floating]:
        """The vector of a text, [dim], not normalised, from the states of its tokens, [n, H]."""
        return text_vector(hidden, self.settings, self.checkpoint.folder)

    @property
    def query_weights(self) -> NDArray[np.float32] | None:
        """The weight of each entry of the vocabulary in a query; None where queries are as documents."""
        if self.settings.splade is None:
            return None
        return self.settings.splade.query_weights(
            self.checkpoint.folder, self.checkpoint.config.architecture.vocab_size
        )

    @property
    def largest(self) -> dict[str, NDArray[np.floating]]:
        """See `largest_inputs`."""
        return largest_inputs(self.answers)


class Staged(NamedTuple):
    """A complete bundle without its manifest file, in the staging directory."""

    directory: Path
    manifest: Manifest
    graphs: tuple[GraphRecipe, ...]
    distances: dict[str, float]
    """{variant: its largest distance to the oracle}; of a variant that failed, where the check ended."""
    failures: dict[str, SelfCheckFailed]
    """{variant that differs from the oracle by more than its tolerance: why}."""

    @property
    def worst(self) -> float:
        return max(self.distances.values())


def _best(
    folder: Path,
    inputs: Inputs,
    recipe: Recipe,
    chosen: Sequence[GraphRecipe],
    tell: Callable[[str], object],
) -> Staged:
    """Stage the bundle with its ordinary graphs and, if need be, with those for outlying channels.

    Returns the one that is closer to the oracle. The second is tried if the first is further from the oracle
    than CLOSE_ENOUGH and the checkpoint has outliers. Where int8 is not within its tolerance in either form,
    see `_rescued`.

    Raises:
        SelfCheckFailed: a variant is not within its tolerance.
    """
    best = _stage(folder / "0", inputs, chosen)
    swapped = [_swapped(graph, recipe) for graph in chosen]
    if best.worst > CLOSE_ENOUGH and swapped != list(chosen) and has_outliers(inputs.largest):
        best = min(best, _stage(folder / "1", inputs, swapped), key=lambda staged: staged.worst)
    return _rescued(folder, inputs, best, tell) if best.failures else best


def _rescued(folder: Path, inputs: Inputs, failed: Staged, tell: Callable[[str], object]) -> Staged:
    """Stage the bundle with some int8 products in float32; where that does not help, without `cpu-int8`.

    Raises:
        SelfCheckFailed: another variant is not within its tolerance; or rounding does not explain the
            distance, so that something else is wrong; or no variant is left.
    """
    (name, error), *more = failed.failures.items()
    graph = next(graph for graph in failed.graphs if graph.variant == name)
    if more or graph.table != "int8" or error.distance is None:
        raise error
    material = material_of(inputs.checkpoint, inputs.largest)
    simulation = rounding_errors(
        inputs.checkpoint,
        short_ids(inputs.answers),
        material,
        vector=inputs.vector,
        outliers=graph.outliers,
    )
    if simulation.together < error.distance / 2:
        raise error
    reached = f"int8 alone is at {_shown(error.distance, inputs)} to the exact result"
    total = len(simulation.single)
    for allowed in (min(PROMISED, graph.tolerance), graph.tolerance):
        for margin in MARGINS:
            kept = simulation.choose(allowed * margin)
            if share_of(kept, inputs.checkpoint.config.architecture) > MOST:
                continue
            attempt = _stage(folder / "attempt", inputs, [graph], kept)
            shutil.rmtree(attempt.directory)
            if attempt.failures or attempt.worst > allowed:
                continue
            tell(
                f"{name}: {len(kept)} of {total} products stay in float ({_listed(kept)}): {reached}, "
                f"with these at {_shown(attempt.worst, inputs)}"
            )
            return _stage(folder / "kept", inputs, failed.graphs, kept)
    missing = (
        f"{name} cannot be built: {reached}, needed is {_shown(graph.tolerance, inputs)}, and half of the "
        "products in float32 do not bring it there"
    )
    rest = [other for other in failed.graphs if other is not graph]
    if not rest:
        raise SelfCheckFailed(f"{missing}; build cpu-fp32", cos=error.cos, distance=error.distance)
    tell(f"{missing}; the bundle has {', '.join(other.variant for other in rest)}")
    return _stage(folder / "rest", inputs, rest)


def _shown(distance: float, inputs: Inputs) -> str:
    """A distance as users know it: for a reranker the difference of a score, else the cosine."""
    if inputs.checkpoint.reranker:
        return f"a difference of {distance:.4f}"
    return f"a cosine of {1 - distance**2 / 2:.5f}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _swapped(graph: GraphRecipe, recipe: Recipe) -> GraphRecipe:
    """The variant's graph for outlying channels; the given one where there is none."""
    return recipe.choose(graph.variant, graph.table, outliers=True) or graph


def _stage(staged: Path, inputs: Inputs, chosen: Sequence[GraphRecipe], kept: Collection[str] = ()) -> Staged:
    """Write all files of a bundle but its manifest, and compare each variant with the oracle. The products
    `kept` stay in float32 in int8 variants; see `kept`."""
    staged.mkdir()
    change = partial(keep_in_float, kept=kept, table=inputs.checkpoint.table_dtype)
    files = {"tokenizer.json": write(staged / "tokenizer.json", [inputs.tokenizer_json])}
    files |= _write_dense(staged, inputs)
    files |= _write_expansion(staged, inputs)
    traced = read_layouts(inputs.graphs, chosen)
    architecture = inputs.checkpoint.config.architecture
    fitted = {file: change(resize_layout(layout, architecture)) for file, layout in traced.items()}
    for graph in chosen:
        data = fit_graph(graph, _read_graph(inputs.graphs, graph), traced, fitted, kept)
        files[_graph_name(graph)] = write(staged / _graph_name(graph), [data])
    files |= write_weights(staged, fitted, material_of(inputs.checkpoint, inputs.largest))
    manifest = _manifest(inputs, chosen, files)
    _check_manifest(manifest)
    distances, failures = dict[str, float](), dict[str, SelfCheckFailed]()
    for name in manifest.variants:
        try:
            distances[name] = prove(staged, manifest, name, inputs.tokenizer)
        except SelfCheckFailed as error:
            failures[name] = error
            distances[name] = np.inf if error.distance is None else error.distance
    return Staged(staged, manifest, tuple(chosen), distances, failures)


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


def _check_expansion(settings: Settings, checkpoint: Checkpoint, chosen: Iterable[GraphRecipe]) -> None:
    """Raises CheckpointError for a sparse encoder without its head, ConfigError for graphs that give too
    little."""
    if settings.splade is not None and not checkpoint.has_mlm_head:
        raise CheckpointError(
            "modules.json says that this is a sparse encoder, but the weights have no masked-language-model "
            "head (lm_head.dense.weight)"
        )
    if checkpoint.has_mlm_head and (checkpoint.has_sparse_head or checkpoint.reranker):
        raise CheckpointError("the weights have a classifier and lm_head; only one of them can be meant")
    for graph in chosen:
        if checkpoint.has_mlm_head and graph.outputs != STATES:
            raise ConfigError(
                f"a masked-language-model head needs the states of all tokens; {graph.file} gives none: "
                "trace the architecture again"
            )


def _check_settings(settings: Settings, checkpoint: Checkpoint, chosen: Iterable[GraphRecipe]) -> None:
    """Raises CheckpointError for layers that do not fit each other, ConfigError for graphs that give too
    little."""
    width = checkpoint.config.architecture.hidden_size * len(settings.pooling)
    for layer in settings.dense:
        if layer.inputs != width:
            raise CheckpointError(
                f"{layer.folder}/config.json: in_features is {layer.inputs}, "
                f"what comes before it gives {width}"
            )
        width = layer.outputs
    for graph in chosen:
        if settings.pooling != ("cls",) and graph.outputs != STATES:
            raise ConfigError(
                f"the checkpoint's pooling is {', '.join(settings.pooling)}, which needs the states "
                f"of all tokens; {graph.file} gives none: trace the architecture again"
            )


def _checked_tokenizer(data: bytes, checkpoint: Checkpoint) -> Tokenizer:
    tokenizer = Tokenizer(data)
    try:
        tokenizer.check_ids(checkpoint.config.architecture.vocab_size)
    except BundleError as error:
        raise CheckpointError(str(error)) from None
    return tokenizer


def _read_graph(source: Path, graph: GraphRecipe) -> bytes:
    """The bytes of a traced graph. Raises BundleError where they are not those of the recipe."""
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
    return data


def _write_dense(staged: Path, inputs: Inputs) -> dict[str, FileRecord]:
    """The weights of the layers after the pooling, in float32 whatever the variant: they are small."""
    files = {}
    for place, layer in enumerate(inputs.settings.dense):
        values = (part.astype("<f4").tobytes() for part in layer.read(inputs.checkpoint.folder))
        files[_dense_name(place)] = write(staged / _dense_name(place), values)
    return files


def _write_expansion(staged: Path, inputs: Inputs) -> dict[str, FileRecord]:
    """The masked-language-model head and the weights of queries, in float32 whatever the variant: the head is
    run in numpy."""
    checkpoint, files = inputs.checkpoint, dict[str, FileRecord]()
    if not checkpoint.has_mlm_head:
        return files
    small = ("dense.weight", "dense.bias", "norm.weight", "norm.bias")

    def parts() -> Iterable[bytes]:
        for name in small:
            yield checkpoint.read(f"mlm_head.{name}").astype("<f4").tobytes()
        for rows in checkpoint.read_rows("mlm_head.decoder.weight", CHUNK_ROWS):
            yield rows.astype("<f4").tobytes()
        yield checkpoint.read("mlm_head.decoder.bias").astype("<f4").tobytes()

    files[manifests.MLM_HEAD] = write(staged / manifests.MLM_HEAD, parts())
    weights = inputs.query_weights
    if weights is not None:
        files[manifests.QUERY_WEIGHTS] = write(
            staged / manifests.QUERY_WEIGHTS, [weights.astype("<f4").tobytes()]
        )
    return files


def _dense_name(place: int) -> str:
    return f"dense-{place + 1}.bin"


def _source(checkpoint: Checkpoint) -> str:
    """The sha256 of the weights: of the file or, for shards, of the lines that `sha256sum` prints."""
    hashes = [(sha256_of(path), path.name) for path in checkpoint.weight_files]
    if len(hashes) == 1:
        return hashes[0][0]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in hashes).encode()).hexdigest()


def _manifest(inputs: Inputs, chosen: Iterable[GraphRecipe], files: dict[str, FileRecord]) -> Manifest:
    checkpoint, settings, answers = inputs.checkpoint, inputs.settings, inputs.answers
    config = checkpoint.config
    positions = config.architecture.max_positions
    records = tuple(
        DenseRecord(
            file=_dense_name(place), inputs=layer.inputs, outputs=layer.outputs, activation=layer.activation
        )
        for place, layer in enumerate(settings.dense)
    )
    dim = records[-1].outputs if records else config.architecture.hidden_size * len(settings.pooling)
    trained = [size for size in config.trained_dims if size <= dim]
    length = min(settings.max_length or positions, positions)
    return Manifest(
        model=inputs.name or checkpoint.folder.name,
        made_by=f"gte-runtime {__version__}",
        source=_source(checkpoint),
        notice=config.notice,
        architecture=config.architecture,
        sparse=checkpoint.has_sparse_head or checkpoint.has_mlm_head,
        smallest_dim=trained[0] if trained else min(TRAINED_DIM, max(1, dim // 2)),
        tokenizer=inputs.tokenizer.record,
        files=files,
        variants={graph.variant: _variant(graph, positions) for graph in chosen},
        self_checks=tuple(answer.self_check() for answer in answers if answer.pair is None),
        pair_checks=tuple(answer.pair_check() for answer in answers if answer.pair is not None),
        origin=inputs.origin or checkpoint.folder.origin,
        prompts=settings.prompts,
        default_prompt=settings.default_prompt,
        unicode=inputs.unicode,
        pooling=settings.pooling,
        dense=records,
        normalize=settings.normalize,
        max_length=0 if length == min(DEFAULT_LENGTH, positions) else length,
        truncate_dim=settings.truncate_dim if settings.truncate_dim < dim else 0,
        similarity=settings.similarity,
        activation=settings.activation or config.activation or "sigmoid",
        expansion=activation_of(checkpoint, settings),
        query_weights=inputs.query_weights is not None,
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
