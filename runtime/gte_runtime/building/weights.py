"""Writes the weight files of a bundle by their layouts, and checks that the graphs agree with those."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ..errors import BundleCorruptError
from ..format.graph import inspect_graph
from ..format.layout import Layout
from ..format.manifest import FileRecord
from ..format.recipe import GraphRecipe
from ..format.rewrite import rewrite
from ..machine.files import read_regular
from .kept import TABLE
from .material import Material
from .resize import resize_graph
from .transforms import pieces
from .write import write


def read_layouts(source: Path, chosen: Iterable[GraphRecipe]) -> dict[str, Layout]:
    """{weight file: its layout} for all files of the chosen graphs.

    Raises:
        BundleError: a layout is missing or is none.
    """
    files = dict.fromkeys(file for graph in chosen for file in graph.weights)
    return {file: _read_layout(source, file) for file in files}


def write_weights(staged: Path, layouts: Mapping[str, Layout], material: Material) -> dict[str, FileRecord]:
    """Write weight files, each once, however many graphs point into it.

    Args:
        staged: the directory to write into.
        layouts: of all files.
        material: the inputs of the transforms.

    Returns:
        {file: size and hash}.
    """
    return {file: _write_weight_file(staged / file, layout, material) for file, layout in layouts.items()}


def fit_graph(
    graph: GraphRecipe,
    data: bytes,
    traced: Mapping[str, Layout],
    fitted: Mapping[str, Layout],
    kept: Collection[str] = (),
) -> bytes:
    """The bytes of a graph for tables of other heights, or with products in float32; see `resize` and `kept`.

    Args:
        graph: its record.
        data: its bytes as they were traced.
        traced: the layouts that were written with it, by file.
        fitted: the same with the heights of the checkpoint, and without rounding of what is kept.
        kept: int8 products that stay in float32.

    Raises:
        BundleError: it does not point where its layouts say.
    """
    _check_pointers(graph, data, traced)
    if all(traced[file] is fitted[file] for file in graph.weights):
        return data
    own = {file: fitted[file] for file in graph.weights}
    if kept and graph.table == "int8":
        data = rewrite(data, own, in_float=[name for name in kept if name != TABLE])
    else:
        data = resize_graph(data, graph.file, own)
    _check_pointers(graph, data, fitted)
    return data


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


def _check_pointers(graph: GraphRecipe, data: bytes, layouts: Mapping[str, Layout]) -> None:
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
