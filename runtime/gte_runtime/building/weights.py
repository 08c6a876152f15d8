"""Writes the weight files of a bundle by their layouts, and checks that the graphs agree with those."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import BundleCorruptError
from ..format.graph import inspect_graph
from ..format.layout import Layout
from ..format.manifest import FileRecord
from ..format.recipe import GraphRecipe
from ..machine.files import read_regular
from .material import Material
from .transforms import pieces
from .write import write


def write_weights(
    staged: Path, source: Path, chosen: Iterable[GraphRecipe], material: Material
) -> dict[str, FileRecord]:
    """Write the weight files of the chosen graphs, each file once, however many graphs point into it.

    Args:
        staged: the directory to write into.
        source: the directory of graphs and layouts.
        chosen: the graphs.
        material: the inputs of the transforms.

    Returns:
        {file: size and hash}.

    Raises:
        BundleError: a layout is missing or is none, or a graph's pointers are not those of its layouts.
    """
    layouts: dict[str, Layout] = {}
    for graph in chosen:
        for file in graph.weights:
            layouts.setdefault(file, _read_layout(source, file))
        _check_pointers(graph, read_regular(source / graph.file), layouts)
    return {file: _write_weight_file(staged / file, layout, material) for file, layout in layouts.items()}


def _read_layout(source: Path, file: str) -> Layout:
    path = source / f"{file.removesuffix('.bin')}.layout.json"
    try:
        text = read_regular(path).decode("utf-8", "replace")
    except OSError:
        raise BundleCorruptError(
            path.name,
            expected=f"a layout in {source.name}",
            got="nothing",
            hint="trace the architecture again",
        ) from None
    return Layout.from_json(text)


def _check_pointers(graph: GraphRecipe, data: bytes, layouts: dict[str, Layout]) -> None:
    expected = {
        (layouts[f].file, t.name, t.offset, t.size) for f in graph.weights for t in layouts[f].tensors
    }
    found = {(p.file, p.name, p.offset, p.length) for p in inspect_graph(data, graph.file).pointers}
    if found != expected:
        odd = min(found ^ expected)
        raise BundleCorruptError(
            graph.file,
            expected="the places its layouts name",
            got=f"another place for {odd[1]}",
            hint="trace the architecture again",
        )


def _write_weight_file(path: Path, layout: Layout, material: Material) -> FileRecord:
    def parts() -> Iterable[bytes]:
        at = 0
        for tensor in layout.tensors:
            yield bytes(tensor.offset - at)
            for piece in pieces(tensor, material):
                yield piece.tobytes()
            at = tensor.offset + tensor.size

    return write(path, parts())
