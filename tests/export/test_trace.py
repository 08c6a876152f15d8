"""The committed graphs are what the code traces today, and hold no weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from gte_export.detach import LARGEST_INSIDE, DetachError, detach
from gte_export.layout import (
    outliers_layout,
    packed_layout,
    splits_in_one_kernel,
    table_layout,
    weights_layout,
)
from gte_export.plans import plans
from gte_export.trace import layout_name, numbers, trace
from gte_runtime.checkpoint.config import read_config
from gte_runtime.format.graph import inspect_graph
from gte_runtime.format.layout import DTYPES
from gte_runtime.format.manifest import LOGITS, STATES
from gte_runtime.format.recipe import read_recipe

ROOT = Path(__file__).parents[2]
COMMITTED = {
    "gte-multilingual-base": (ROOT / "models/gte-multilingual-base", ROOT / "models/gte-multilingual-base"),
    "gte-mini": (ROOT / "models/gte-mini", ROOT / "models/gte-mini"),
    "tiny": (ROOT / "tests/data/gte-tiny-random", ROOT / "tests/data/gte-tiny-random/graphs"),
    "tiny-reranker": (ROOT / "tests/data/gte-tiny-reranker", ROOT / "tests/data/gte-tiny-reranker/graphs"),
}


LARGE = {
    name: (ROOT / "models" / name,) * 2
    for name in ("gte-multilingual-reranker-base", "gte-base-en-v1.5", "gte-large-en-v1.5")
}
"""Too slow to trace in a test; they come from the same code as those above."""
ALL = COMMITTED | LARGE


def artifacts(directory: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for pattern in ("*.onnx", "*.layout.json", "recipe.toml")
        for file in directory.glob(pattern)
    }


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_graphs_are_current(name: str, tmp_path: Path):
    """Tracing again gives the same bytes: graphs, layouts and recipe.

    `make export` brings them up to date.
    """
    source, committed = COMMITTED[name]
    traced = tmp_path / committed.resolve().name
    trace(source, traced)
    found, expected = artifacts(traced), artifacts(committed)
    assert sorted(found) == sorted(expected)
    assert [file for file in found if found[file] != expected[file]] == []


@pytest.mark.parametrize("name", LARGE)
def test_layouts_and_recipes_of_the_large_ones(name: str):
    """Without tracing: layouts are what the code makes of the recipe's numbers, graphs point to their places
    and have their hashes.
    """
    directory, _ = LARGE[name]
    a, reranker = numbers(directory / "recipe.toml")
    layouts = [table_layout(a, dtype) for dtype in DTYPES] + [
        weights_layout(a, dtype, reranker) for dtype in DTYPES
    ]
    layouts += [packed_layout(a, "float16", reranker), outliers_layout(a, reranker)]
    for layout in layouts:
        assert (directory / layout_name(layout)).read_text(encoding="utf-8") == layout.to_json()
    recipe = read_recipe(directory)
    assert (recipe.name, recipe.reranker) == (name, name == "gte-multilingual-reranker-base")
    assert {graph.file for graph in recipe.graphs} == {plan.file for plan in plans(recipe.architecture)}
    for graph in recipe.graphs:
        data = (directory / graph.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == graph.sha256
        found = {(p.file, p.name, p.offset, p.length) for p in inspect_graph(data, graph.file).pointers}
        used = [layout for layout in layouts if layout.file in graph.weights]
        assert found == {(layout.file, t.name, t.offset, t.size) for layout in used for t in layout.tensors}


@pytest.mark.parametrize("name", ALL)
def test_graphs_carry_no_weights(name: str):
    """No tensor above 1 kB stands in a graph; every initializer points into a weight file."""
    _, directory = ALL[name]
    layers = read_recipe(directory).architecture.layers
    for file in directory.glob("*.onnx"):
        model = onnx.load(file, load_external_data=False)
        assert all(i.data_location == TensorProto.EXTERNAL for i in model.graph.initializer)
        assert inspect_graph(file.read_bytes(), "a.onnx").largest_inside <= LARGEST_INSIDE
        assert file.stat().st_size < (30_000 if "outliers" in file.name else 25_000) * max(layers, 3)


@pytest.mark.parametrize("name", ALL)
def test_graph_contract(name: str):
    """Inputs and outputs as the recipe declares them, outputs in float32, axes that batches need dynamic."""
    _, directory = ALL[name]
    recipe = read_recipe(directory)
    for graph in recipe.graphs:
        model = onnx.load(directory / graph.file, load_external_data=False)
        assert tuple(i.name for i in model.graph.input) == graph.inputs
        assert (
            tuple(o.name for o in model.graph.output)
            == graph.outputs
            == (LOGITS if recipe.reranker else STATES)
        )
        assert {o.type.tensor_type.elem_type for o in model.graph.output[:2]} == {TensorProto.FLOAT}
        for value in (*model.graph.input, model.graph.output[len(model.graph.output) // 2]):
            assert all(dim.dim_param for dim in value.type.tensor_type.shape.dim), value.name
        if recipe.reranker:
            assert len(model.graph.output[0].type.tensor_type.shape.dim) == 1
            continue
        assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim][1:] == [
            recipe.architecture.hidden_size
        ]
        states = model.graph.output[2]
        assert states.type.tensor_type.elem_type == (
            TensorProto.FLOAT16 if "fp16" in graph.variant else TensorProto.FLOAT
        )
        assert [d.dim_value for d in states.type.tensor_type.shape.dim] == [
            graph.batch != "padded",
            0,
            recipe.architecture.hidden_size,
        ]
        # Given as computed: a node behind it would be computed in every run, fetched or not.
        assert next(n.op_type for n in model.graph.node if states.name in n.output).endswith(
            "LayerNormalization"
        )


@pytest.mark.parametrize("name", ALL)
def test_operators(name: str):
    """The CPU graph holds the fused operators and both ways through attention; the portable one none."""
    _, directory = ALL[name]
    architecture = read_recipe(directory).architecture
    for graph in read_recipe(directory).graphs:
        facts = inspect_graph((directory / graph.file).read_bytes(), "a.onnx")
        fused = {operator for operator in facts.operators if "::" in operator}
        if graph.batch == "packed":
            gelu = {"com.microsoft::BiasSplitGelu"} if splits_in_one_kernel(architecture) else set()
            packed = ("PackedMultiHeadAttention", "RotaryEmbedding", "SkipLayerNormalization")
            assert fused == {f"com.microsoft::{operator}" for operator in packed} | gelu
            assert not {"If", "Shape", "Gemm"} & set(facts.operators)
        elif graph.batch == "ragged":
            products = {"com.microsoft::MatMulIntegerToFloat"} if graph.variant == "cpu-int8" else set()
            assert fused == {"com.microsoft::RotaryEmbedding", "com.microsoft::MultiHeadAttention"} | products
            assert "If" in facts.operators
        else:
            assert not fused
            assert "If" not in facts.operators
        assert "LayerNormalization" in facts.operators
        assert "Transpose" not in facts.operators or graph.batch == "padded"


def test_a_lost_operator_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A trace that misses a fused operator is refused: count them as if there should be one more."""
    from gte_export import trace as module

    original = module.plans

    def one_more(architecture):
        for plan in original(architecture):
            plan.operators["com.microsoft::MultiHeadAttention"] = 3
            yield plan

    monkeypatch.setattr(module, "plans", one_more)
    with pytest.raises(ValueError, match=r"expected 9 com\.microsoft::MultiHeadAttention, the trace has 6"):
        trace(COMMITTED["tiny"][0], tmp_path / "tiny")


def test_a_weight_without_a_place_is_noticed():
    """A graph and layouts that do not name the same tensors are refused, both ways."""
    source, directory = COMMITTED["tiny"]
    a = read_config(source).architecture
    layouts = [table_layout(a, "float16"), weights_layout(a, "float32")]
    model = onnx.load(directory / "cpu-fp32.table-fp16.onnx", load_external_data=False)
    detach(model, layouts)
    with pytest.raises(DetachError, match=r"embeddings\.word is in no layout"):
        detach(model, layouts[1:])
    del model.graph.initializer[3]
    with pytest.raises(DetachError, match="the graph does not use"):
        detach(model, layouts)
