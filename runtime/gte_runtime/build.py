"""A checkpoint and the graphs of its architecture become a bundle. numpy only; no PyTorch, no onnx.

Weights are streamed, so memory stays at a few tensors. The directory appears under its name when
everything in it is written, and the manifest is written last, after every variant has agreed with
the oracle.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import manifest as manifests
from .balance import column_factors, factors, has_outliers, outliers
from .bundle import LFS_POINTER
from .checkpoint import Checkpoint
from .errors import BundleCorruptError, BundleError, CheckpointError, ConfigError, GteError, OutputError, SelfCheckFailed
from .evaluation import NumpySession
from .files import read_regular
from .graph import inspect_graph
from .layout import CHUNK_ROWS, Layout, Material, pieces
from .manifest import FileRecord, Manifest, PairCheck, SelfCheck, Variant
from .oracle import Reference, forward
from .publish import publish, staging, sync
from .recipe import GraphRecipe, Recipe, find_graphs
from .scoring import cut_and_normalise
from .selfcheck import self_check
from .session import OrtSession, Session
from .shipped import models_directory
from .threads import thread_count
from .tokenization import Tokenizer
from .usage import Usage, read_usage

FLASH_FROM = 128
"""Tokens from which a text runs without mask. Measured on 2 cores; see benchmarks/NOTES-cpu.md."""

TRAINED_DIM = 128
"""The model card's shortest vector, for models as wide as the card's."""

SHORT_TEXTS = ("What is the capital of China?", "北京是中华人民共和国的首都。", "Привет, мир! 你好 — ½ ﬁn")
SHORT_PAIRS = (
    ("What is the capital of China?", "北京是中华人民共和国的首都。"),
    ("What is the capital of China?", "To sort a list in Python, call sorted()."),
    ("Привет, мир!", "你好 — ½ ﬁn"),
)
LONG_TEXT = "The quick brown fox jumps over the lazy dog, and sorts 1024 numbers in Python. " * 10
"""Long enough for the path without mask; checked when files are new, and by `gte verify`."""

ORDINARY = 0.0316
"""Distance to the oracle, a cosine of 0.9995, beyond which a variant tries its form for outlying channels."""

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
        checkpoint: config.json, model.safetensors and tokenizer.json, as the hub ships them.
        bundle: a directory that does not exist yet.
        graphs: where the traced graphs lie; by default those that ship with the package.
        variants: what to build, such as "cpu-fp32".
        ignore_unused: accept tensors that the architecture does not use.
        overwrite: replace a bundle that is there.
        keep_existing: if another process finishes the same bundle first, leave that one.
        origin: where the checkpoint came from, as `owner/name@commit`.
        name: of the model; by default the checkpoint directory's.
        prompts: what to put before texts, by name, where the checkpoint does not say itself.

    Raises:
        CheckpointError: a file is missing, or a tensor is missing, extra or of another shape.
        ConfigError: a variant for which there is no graph.
        SelfCheckFailed: a variant differs from the oracle by more than its tolerance.
        OutputError: the directory is there already, or could not be written.
    """
    _check_target(bundle, overwrite=overwrite, keep_existing=keep_existing)
    with Checkpoint(checkpoint, ignore_unused=ignore_unused) as opened:
        source, recipe = find_graphs(opened.config.architecture, graphs, shipped=models_directory(), reranker=opened.reranker)
        chosen = _choose(recipe, variants, opened.table_dtype)
        usage = read_usage(checkpoint)
        if prompts and not usage.prompts:
            usage = Usage(dict(prompts))
        tokenizer_json = _tokenizer_json(checkpoint)
        tokenizer = _checked_tokenizer(tokenizer_json, opened)
        try:
            bundle.parent.mkdir(parents=True, exist_ok=True)
            with staging(bundle) as temporary:
                answers = _ask_oracle(opened, tokenizer)
                work = Work(opened, source, tokenizer, tokenizer_json, answers, usage, name, origin)
                staged, manifest, _ = _best(temporary, work, recipe, chosen)
                _write(staged / manifests.FILE, [manifest.to_json().encode()])
                sync(staged)
                publish(staged, bundle, overwrite=overwrite, keep_existing=keep_existing)
        except GteError:
            raise
        except OSError as error:
            raise OutputError(f"{bundle.name[:80]} could not be written: {error.strerror or error}") from None
    return manifest


@dataclass(frozen=True, slots=True)
class Work:
    """What a bundle is made of, whichever graphs are chosen."""

    checkpoint: Checkpoint
    graphs: Path
    tokenizer: Tokenizer
    tokenizer_json: bytes
    answers: tuple[Answer, ...]
    usage: Usage
    name: str | None
    origin: str

    def largest(self) -> dict[str, NDArray[np.floating]]:
        """Over all texts of the self-check; see the oracle."""
        return {
            name: np.max([answer.reference.largest[name] for answer in self.answers], axis=0) for name in self.answers[0].reference.largest
        }


class Staged(NamedTuple):
    directory: Path
    manifest: Manifest
    distances: dict[str, float]
    """Of each variant to the oracle."""


def _best(folder: Path, work: Work, recipe: Recipe, chosen: Sequence[GraphRecipe]) -> Staged:
    """The graphs in their ordinary form or, where that is off and a few channels are the likely cause, in the form for those."""
    forms = [list(chosen)]
    swapped = [_swapped(graph, recipe) for graph in chosen]
    if swapped != forms[0] and has_outliers(work.largest()):
        forms.append(swapped)
    found: list[Staged] = []
    failure: SelfCheckFailed | None = None
    for number, graphs in enumerate(forms):
        try:
            found.append(_stage(folder / str(number), work, graphs))
        except SelfCheckFailed as error:
            failure = failure or error
            continue
        if max(found[-1].distances.values()) <= ORDINARY:
            return found[-1]
    if failure is not None and not found:
        raise failure
    return min(found, key=lambda staged: max(staged.distances.values()))


def _swapped(graph: GraphRecipe, recipe: Recipe) -> GraphRecipe:
    """The form for outlying channels, where there is one."""
    return recipe.choose(graph.variant, graph.table, outliers=True) or graph


def _stage(staged: Path, work: Work, chosen: Sequence[GraphRecipe]) -> Staged:
    """Write a bundle's files but for its manifest, and compare each variant with the oracle."""
    staged.mkdir()
    files = {"tokenizer.json": _write(staged / "tokenizer.json", [work.tokenizer_json])}
    files |= _write_graphs(staged, work.graphs, chosen)
    files |= _write_weights(staged, work.graphs, chosen, _material(work))
    manifest = _manifest(work.checkpoint, work.tokenizer, chosen, files, work.answers)
    manifest = replace(
        manifest,
        model=work.name or manifest.model,
        origin=work.origin,
        prompts=work.usage.prompts,
        default_prompt=work.usage.default_prompt,
    )
    return Staged(staged, manifest, {name: _prove(staged, manifest, name, work.tokenizer) for name in manifest.variants})


def _check_target(bundle: Path, *, overwrite: bool, keep_existing: bool) -> None:
    """Raises OutputError when something is in the place of the bundle that is not to be replaced."""
    try:
        there, is_bundle = bundle.exists(), (bundle / manifests.FILE).exists()
    except OSError as error:
        raise OutputError(f"{bundle.name[:80]} could not be written: {error.strerror}") from None
    if there and not (overwrite or keep_existing):
        raise OutputError(f"{bundle.name} exists already; choose another name or pass --overwrite")
    if there and not is_bundle:
        raise OutputError(f"{bundle.name} is no bundle (it has no {manifests.FILE}) and is not replaced; choose another name")


def _choose(recipe: Recipe, variants: Iterable[str], table: str) -> list[GraphRecipe]:
    chosen = []
    for name in dict.fromkeys(variants):
        graph = recipe.choose(name, table)
        if graph is None:
            raise ConfigError(f"no graph for variant {name!r}; {recipe.name} has {', '.join(recipe.variants)}")
        chosen.append(graph)
    if not chosen:
        raise ConfigError(f"no variant was named; {recipe.name} has {', '.join(recipe.variants)}")
    return chosen


def _tokenizer_json(checkpoint: Path) -> bytes:
    try:
        data = read_regular(checkpoint / "tokenizer.json")
    except OSError:
        raise CheckpointError(
            f"no tokenizer.json in {checkpoint.name}; the tokenizer belongs to the checkpoint and is not replaced"
        ) from None
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
            data = read_regular(source / graph.file)
        except OSError:
            raise BundleCorruptError(
                graph.file, expected=f"a graph in {source.name}", got="nothing", hint="trace the architecture again"
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if found != graph.sha256:
            raise BundleCorruptError(
                graph.file, expected=f"sha256 {graph.sha256[:12]}…", got=f"{found[:12]}…", hint="trace the architecture again"
            )
        files[_graph_name(graph)] = _write(staged / _graph_name(graph), [data])
    return files


def _material(work: Work) -> Material:
    checkpoint, largest = work.checkpoint, work.largest()
    factor = cache(lambda place: factors(place, largest, checkpoint.read))
    return Material(
        weights=checkpoint,
        rope=checkpoint.config.rope,
        factors=factor,
        column_factors=cache(lambda name: column_factors(checkpoint.read_rows(name, CHUNK_ROWS))),
        outliers=cache(lambda place: outliers(place, largest, factor)),
    )


def _write_weights(staged: Path, source: Path, chosen: Iterable[GraphRecipe], material: Material) -> dict[str, FileRecord]:
    """Each weight file once, however many graphs point into it; every pointer is checked against the layout."""
    layouts: dict[str, Layout] = {}
    for graph in chosen:
        for file in graph.weights:
            layouts.setdefault(file, _read_layout(source, file))
        _check_pointers(graph, (source / graph.file).read_bytes(), layouts)
    return {file: _write_weight_file(staged / file, layout, material) for file, layout in layouts.items()}


def _read_layout(source: Path, file: str) -> Layout:
    path = source / f"{file.removesuffix('.bin')}.layout.json"
    try:
        text = read_regular(path).decode("utf-8", "replace")
    except OSError:
        raise BundleCorruptError(
            path.name, expected=f"a layout in {source.name}", got="nothing", hint="trace the architecture again"
        ) from None
    return Layout.from_json(text)


def _check_pointers(graph: GraphRecipe, data: bytes, layouts: dict[str, Layout]) -> None:
    expected = {(layouts[f].file, t.name, t.offset, t.size) for f in graph.weights for t in layouts[f].tensors}
    found = {(p.file, p.name, p.offset, p.length) for p in inspect_graph(data, graph.file).pointers}
    if found != expected:
        odd = min(found ^ expected)
        raise BundleCorruptError(
            graph.file, expected="the places its layouts name", got=f"another place for {odd[1]}", hint="trace the architecture again"
        )


def _write_weight_file(path: Path, layout: Layout, material: Material) -> FileRecord:
    def parts() -> Iterable[bytes]:
        at = 0
        for tensor in layout.tensors:
            yield bytes(tensor.offset - at)
            for piece in pieces(tensor, material):
                yield piece.tobytes()
            at = tensor.offset + tensor.size

    return _write(path, parts())


def _manifest(
    checkpoint: Checkpoint, tokenizer: Tokenizer, chosen: Iterable[GraphRecipe], files: dict[str, FileRecord], answers: Iterable[Answer]
) -> Manifest:
    from . import __version__

    config = checkpoint.config
    return Manifest(
        model=checkpoint.directory.resolve().name,
        made_by=f"gte-runtime {__version__}",
        source=_sha256(checkpoint.directory / "model.safetensors"),
        notice=config.notice,
        architecture=config.architecture,
        sparse=checkpoint.has_sparse_head,
        smallest_dim=config.trained_dims[0] if config.trained_dims else min(TRAINED_DIM, config.architecture.hidden_size // 2),
        tokenizer=tokenizer.record,
        files=files,
        variants={graph.variant: _variant(graph) for graph in chosen},
        self_checks=tuple(answer.self_check() for answer in answers if answer.pair is None),
        pair_checks=tuple(answer.pair_check() for answer in answers if answer.pair is not None),
    )


def _variant(graph: GraphRecipe) -> Variant:
    return Variant(
        graph=_graph_name(graph),
        weights=graph.weights,
        batch=graph.batch,
        inputs=graph.inputs,
        outputs=graph.outputs,
        min_onnxruntime=graph.min_onnxruntime,
        tolerance=graph.tolerance,
        flash_from=FLASH_FROM,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the oracle says of a self-check text, or of a pair."""

    text: str
    ids: NDArray[np.int64]
    reference: Reference
    pair: tuple[str, str] | None = None

    def self_check(self) -> SelfCheck:
        dense = cut_and_normalise(self.reference.cls[None].astype(np.float32))[0]
        return SelfCheck(
            text=self.text, ids=tuple(self.ids.tolist()), dense=_rounded(dense), token_weights=_rounded(self.reference.token_weights)
        )

    def pair_check(self) -> PairCheck:
        assert self.pair is not None
        query, document = self.pair
        return PairCheck(query=query, document=document, ids=tuple(self.ids.tolist()), logit=float(f"{self.reference.logit:.8g}"))


def _ask_oracle(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[Answer, ...]:
    longest = checkpoint.config.architecture.max_positions
    if checkpoint.reranker:
        pairs = (*SHORT_PAIRS, (SHORT_TEXTS[0], LONG_TEXT))
        encoded = [tokens.ids for tokens in tokenizer.encode_pairs(pairs, max_length=longest)]
        return tuple(Answer("", one, forward(checkpoint, one), pair) for pair, one in zip(pairs, encoded, strict=True))
    texts = (*SHORT_TEXTS, LONG_TEXT)
    ids = [tokens.ids for tokens in tokenizer.encode(texts, max_length=longest)]
    return tuple(Answer(text, one, forward(checkpoint, one)) for text, one in zip(texts, ids, strict=True))


def _rounded(values: NDArray[np.floating]) -> tuple[float, ...]:
    """Eight significant digits: more than float32 holds, less than its repr as float64 writes."""
    return tuple(float(f"{value:.8g}") for value in values.tolist())


def _prove(staged: Path, manifest: Manifest, name: str, tokenizer: Tokenizer) -> float:
    session = judge(staged, manifest, name)
    try:
        return self_check(manifest, name, tokenizer, session, thorough=True)
    finally:
        session.close()


def judge(directory: Path, manifest: Manifest, name: str) -> Session:
    """What runs a variant on this machine, whatever devices it has: ONNX Runtime's CPU provider, or numpy where that has no kernels."""
    variant = manifest.variants[name]
    graph = read_regular(directory / variant.graph)
    if variant.batch == "packed":
        return NumpySession(graph, directory)
    return OrtSession(graph, directory, variant, manifest.architecture.hidden_size, threads=thread_count())


def _graph_name(graph: GraphRecipe) -> str:
    return f"{graph.variant}.onnx"


def _write(path: Path, parts: Iterable[bytes]) -> FileRecord:
    """Write, flush to disk and hash. Readable by everyone, so that a container's user can open it."""
    digest = hashlib.sha256()
    size = 0
    with path.open("xb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o644)
    return FileRecord(size=size, sha256=digest.hexdigest())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
