"""What the runtime sees in a graph with its own eyes is what the onnx package sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from gte_runtime.format.graph import Pointer, inspect_graph

ROOT = Path(__file__).parents[2]
GRAPHS = sorted([*ROOT.glob("models/*/*.onnx"), *ROOT.glob("tests/data/*/graphs/*.onnx")])


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _pointer(tensor: onnx.TensorProto) -> Pointer:
    pairs = {pair.key: pair.value for pair in tensor.external_data}
    return Pointer(tensor.name, pairs["location"], int(pairs["offset"]), int(pairs["length"]))


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_facts_are_those_of_the_onnx_package(file: Path):
    """Operators, opsets, names and pointers of every graph that we ship, branches included."""
    model = onnx.load(file, load_external_data=False)
    parts = list(_graphs(model.graph))
    tensors = [tensor for part in parts for tensor in _tensors(part)]
    external = [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    facts = inspect_graph(file.read_bytes(), "a.onnx")

    assert facts.operators == tuple(
        sorted(
            {
                f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                for part in parts
                for node in part.node
            }
        )
    )
    assert facts.opsets == {entry.domain: entry.version for entry in model.opset_import}
    assert facts.inputs == tuple(value.name for value in model.graph.input)
    assert facts.outputs == tuple(value.name for value in model.graph.output)
    assert sorted(facts.pointers, key=repr) == sorted(map(_pointer, external), key=repr)
    assert facts.largest_inside == max((len(tensor.raw_data) for tensor in tensors), default=0)
    assert len(model.graph.initializer) == len(external)
    assert len(facts.pointers) > 30


def test_graphs_are_there():
    """The test above has something to look at."""
    assert len(GRAPHS) >= 15
