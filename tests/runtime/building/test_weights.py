"""Weight files: every tensor at its place, zeros between them, and graphs that point exactly there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import Golden

from gte_runtime.building.build import build
from gte_runtime.building.material import Material
from gte_runtime.building.weights import fit_graph, read_layouts, write_weights
from gte_runtime.checkpoint.config import read_config
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.errors import BundleCorruptError
from gte_runtime.format.layout import Layout
from gte_runtime.format.recipe import GraphRecipe, read_recipe


@pytest.fixture
def graph(golden: Golden) -> GraphRecipe:
    return read_recipe(golden.graphs).choose("cpu-fp32", "float16", outliers=False)


def material(golden: Golden, checkpoint: Checkpoint) -> Material:
    """float32 needs no factors."""
    none: Any = None
    return Material(checkpoint, read_config(golden.checkpoint).rope, none, none, none)


def written(golden: Golden, graphs: Path, target: Path, *chosen: GraphRecipe) -> dict[str, Any]:
    with Checkpoint(golden.checkpoint) as checkpoint:
        layouts = read_layouts(graphs, chosen)
        for graph in chosen:
            fit_graph(graph, (graphs / graph.file).read_bytes(), layouts, layouts)
        return write_weights(target, layouts, material(golden, checkpoint))


def test_tensors_are_where_the_layout_says(golden: Golden, graph: GraphRecipe, tmp_path: Path):
    """Copied tensors are found at their offsets; between two tensors are zeros; no byte is left over."""
    records = written(golden, golden.graphs, tmp_path, graph)
    assert set(records) == set(graph.weights)
    with Checkpoint(golden.checkpoint) as checkpoint:
        for file in graph.weights:
            data = (tmp_path / file).read_bytes()
            assert records[file].size == len(data)
            layout = Layout.from_json(
                (golden.graphs / f"{file.removesuffix('.bin')}.layout.json").read_text(encoding="utf-8")
            )
            end = 0
            for tensor in layout.tensors:
                assert not any(data[end : tensor.offset])
                end = tensor.offset + tensor.size
                if tensor.transform == "copy":
                    found = np.frombuffer(data[tensor.offset : end], tensor.dtype).reshape(tensor.shape)
                    expected = checkpoint.read(tensor.sources[0]).astype(tensor.dtype)
                    np.testing.assert_array_equal(found, expected)
            assert end == len(data)


def test_a_file_of_two_graphs_is_written_once(golden: Golden, graph: GraphRecipe, tmp_path: Path):
    """Variants that share a weight file get one; writing it twice would fail."""
    portable = read_recipe(golden.graphs).choose("portable-fp32", "float16", outliers=False)
    assert set(portable.weights) & set(graph.weights)
    records = written(golden, golden.graphs, tmp_path, graph, portable)
    assert set(records) == {file.name for file in tmp_path.iterdir()}


def test_a_graph_without_one_of_its_layouts(golden: Golden, graph: GraphRecipe, tmp_path: Path):
    """Its pointers lead to a file that no layout describes: refused before anything is written."""
    with pytest.raises(BundleCorruptError, match="another place for"):
        written(golden, golden.graphs, tmp_path, replace(graph, weights=graph.weights[:1]))
    assert list(tmp_path.iterdir()) == []


def test_a_layout_that_is_missing(golden: Golden, graph: GraphRecipe, tmp_path: Path):
    """The file is named, and where it was looked for."""
    with pytest.raises(BundleCorruptError, match=r"none\.layout\.json: expected a layout in graphs"):
        written(golden, golden.graphs, tmp_path, replace(graph, weights=("none.bin",)))


def test_a_build_writes_the_same(golden: Golden, graph: GraphRecipe, tmp_path: Path):
    """The whole build has these files, byte for byte."""
    build(golden.checkpoint, tmp_path / "bundle", graphs=golden.graphs, variants=("cpu-fp32",))
    (tmp_path / "alone").mkdir()
    written(golden, golden.graphs, tmp_path / "alone", graph)
    for file in graph.weights:
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "bundle" / file).read_bytes()
