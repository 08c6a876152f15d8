"""recipe.toml, which `gte-export` writes into the folder of an architecture's graphs.

The format is documented in models/README.md.
"""

from __future__ import annotations

import json
import operator
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import BundleError, CheckpointError
from ..machine.files import read_regular
from .architecture import BOUNDS, Architecture
from .manifest import BOUNDS as MANIFEST_BOUNDS
from .manifest import LOGITS, PLAIN_NAME, VECTORS, Variant
from .values import Bounds, read_as

FORMAT = 1
FILE = "recipe.toml"
KIND = {False: "an embedding model", True: "a reranker"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRecipe:
    """One graph: the variant that it is for, the weight files that it points into, its accuracy."""

    variant: str
    table: str
    """Type of the embedding table that it reads; a build takes the graph that fits the checkpoint's table."""
    batch: str
    """`ragged`, `packed` or `padded`."""
    outliers: bool = False
    """The form for checkpoints in which a few channels far exceed the others; see `building.int8`."""
    file: str
    sha256: str
    weights: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = VECTORS
    min_onnxruntime: str
    tolerance: float
    """The largest difference to the oracle that a build accepts; see `manifest.Variant.tolerance`."""


GRAPH_BOUNDS: Bounds = {(GraphRecipe, "tolerance"): MANIFEST_BOUNDS[Variant, "tolerance"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All graphs of one architecture."""

    name: str
    architecture: Architecture
    graphs: tuple[GraphRecipe, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of the variants, in the order of their graphs."""
        return tuple(dict.fromkeys(graph.variant for graph in self.graphs))

    @property
    def reranker(self) -> bool:
        """The graphs score pairs of texts and return no vectors."""
        return any(graph.outputs == LOGITS for graph in self.graphs)

    def choose(self, variant: str, table: str, outliers: bool = False) -> GraphRecipe | None:
        """The graph of a variant for a checkpoint whose embedding table has the type `table`.

        Where none has that type, the variant's first graph: `cpu-int8` has one for tables of every type. None
        where there is no such variant, or none in the form for outlying channels.
        """
        graphs = [graph for graph in self.graphs if graph.variant == variant and graph.outliers == outliers]
        fitting = [graph for graph in graphs if graph.table == table]
        return next(iter(fitting or graphs), None)

    def to_toml(self) -> str:
        """The text of recipe.toml."""
        # JSON's strings, numbers, booleans and arrays are valid TOML.
        lines = [
            "# Written by `gte-export trace`; see models/README.md.",
            f"format = {FORMAT}",
            f"name = {json.dumps(self.name)}",
            "",
            "[architecture]",
        ]
        lines += [f"{key} = {json.dumps(value)}" for key, value in asdict(self.architecture).items()]
        for graph in self.graphs:
            lines += ["", "[[graph]]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in asdict(graph).items()]
        return "\n".join(lines) + "\n"


def read_recipe(directory: Path) -> Recipe:
    """Read the recipe.toml of a directory.

    Raises:
        BundleError: there is none, or it is incomplete or of another format version.
    """
    file = directory / FILE
    try:
        raw = tomllib.loads(read_regular(file).decode("utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"no {FILE} in {directory.name}; `gte-export trace CONFIG -o DIR` writes one"
        ) from None
    except OSError as error:
        raise BundleError(f"{directory.name}/{FILE} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise BundleError(f"{directory.name}/{FILE} cannot be read: {str(error)[:120]}") from None
    if raw.get("format") != FORMAT:
        raise BundleError(
            f"{directory.name}/{FILE} has format {raw.get('format')!r}; this version reads {FORMAT}"
        )
    try:
        graphs = read_as(tuple[GraphRecipe, ...], raw["graph"], "graph.", GRAPH_BOUNDS)
        architecture = read_as(Architecture, raw["architecture"], "architecture.", BOUNDS)
        recipe = Recipe(name=read_as(str, raw["name"], "name."), architecture=architecture, graphs=graphs)
    except (KeyError, ValueError) as error:
        raise BundleError(f"{directory.name}/{FILE} is incomplete: {str(error)[:120]}") from None
    names = [name for graph in graphs for name in (graph.variant, graph.file, *graph.weights)]
    for name in names:
        # A build reads and writes files with these names, so none may lead to another directory.
        if not PLAIN_NAME.fullmatch(name):
            raise BundleError(
                f"{directory.name}/{FILE}: expected plain names of files and variants, "
                f"found {repr(name)[:80]}"
            )
    return recipe


def find_graphs(
    architecture: Architecture, directory: Path | None, *, shipped: Path, reranker: bool = False
) -> tuple[Path, Recipe]:
    """Find the graphs of an architecture and kind of model. They may be for other numbers of tokens and
    positions; see `same_operators`.

    Args:
        architecture: the checkpoint's.
        directory: where the graphs are; None to look in the folders of `shipped`.
        shipped: the directory whose folders are looked through.
        reranker: the checkpoint is a reranker's.

    Returns:
        The directory of the graphs, and its recipe.

    Raises:
        CheckpointError: there are none; the message says for which architectures there are and how to trace
            others.
        BundleError: `directory` has no recipe.
    """
    if directory is not None:
        recipe = read_recipe(directory)
        if not same_operators(recipe.architecture, architecture):
            raise CheckpointError(
                f"the graphs in {directory.name} are for another architecture: "
                f"{_difference(recipe.architecture, architecture)}"
            )
        if recipe.reranker != reranker:
            raise CheckpointError(
                f"the graphs in {directory.name} are for {KIND[recipe.reranker]}; "
                f"the checkpoint is {KIND[reranker]}"
            )
        return directory, recipe
    recipes = [(file.parent, read_recipe(file.parent)) for file in sorted(shipped.glob(f"*/{FILE}"))]
    for fits in (operator.eq, same_operators):  # those that need no other heights first
        for path, recipe in recipes:
            if fits(recipe.architecture, architecture) and recipe.reranker == reranker:
                return path, recipe
    raise CheckpointError(
        f"no graphs for {KIND[reranker]} of this architecture ({_describe(architecture)}); "
        f"shipped are those of {', '.join(recipe.name for _, recipe in recipes) or 'none'}. "
        "Trace them once with `gte-export trace CHECKPOINT -o DIR` (package gte-export) and pass --graphs DIR"
    )


def same_operators(one: Architecture, other: Architecture) -> bool:
    """Whether two architectures differ at most in the number of tokens and of positions, which are heights of
    tables: `building.resize` fits a graph to them."""
    return one == replace(other, vocab_size=one.vocab_size, max_positions=one.max_positions)


def _describe(a: Architecture) -> str:
    return (
        f"{a.layers} layers, width {a.hidden_size}, {a.heads} heads, FFN {a.intermediate_size}, "
        f"eps {a.layer_norm_eps:g}"
    )


def _difference(graphs: Architecture, checkpoint: Architecture) -> str:
    fields = [
        f
        for f in Architecture.__dataclass_fields__
        if f not in ("vocab_size", "max_positions") and getattr(graphs, f) != getattr(checkpoint, f)
    ]
    return ", ".join(
        f"{f} is {getattr(graphs, f)}, the checkpoint has {getattr(checkpoint, f)}" for f in fields
    )
