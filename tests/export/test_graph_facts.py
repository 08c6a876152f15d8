"""What the runtime sees in a graph with its own eyes is what the onnx package sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import wire
from fuzzing import examples
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gte_runtime.errors import BundleError
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
    return Pointer(
        tensor.name, pairs["location"], int(pairs["offset"]), int(pairs["length"]), tensor.data_type
    )


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


DAMAGED = (ROOT / "tests/data/gte-tiny-random/graphs/cpu-fp32.table-fp16.onnx").read_bytes()
PATHS = [
    (7,),
    (8,),
    (7, 1),
    (7, 5),
    (7, 11),
    (7, 12),
    (7, 1, 4),
    (7, 1, 5),
    (7, 1, 5, 6),
    (7, 1, 5, 5),
    (7, 5, 13),
    (7, 5, 8),
    (7, 1, 5, 6, 1),
]


@settings(max_examples=examples(40))
@given(data=st.data())
def test_a_damaged_graph_is_what_the_onnx_package_sees_or_refused(data: st.DataObject):
    """Fields doubled, moved and changed anywhere in a graph: what the runtime accepts holds the same
    operators and pointers for protobuf's own reader, so that ONNX Runtime runs nothing that was not
    inspected."""
    graph = DAMAGED
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(PATHS))
        number = data.draw(st.integers(0, 30))
        how = data.draw(st.sampled_from(["double", "second, empty", "other number", "cut", "key again"]))
        graph = damage(graph, path, number, how)
    try:
        facts = inspect_graph(graph, "a.onnx")
    except BundleError:
        event("refused")
        return
    event("read")
    model = onnx.load_model_from_string(graph)
    parts = list(_graphs(model.graph))
    operators = {
        f"{n.domain}::{n.op_type}" if n.domain else n.op_type or "?" for part in parts for n in part.node
    }
    assert facts.operators == tuple(sorted(operators))
    tensors = [tensor for part in parts for tensor in _tensors(part)]
    external = [t.name for t in tensors if t.external_data or t.data_location == onnx.TensorProto.EXTERNAL]
    assert sorted(external) == sorted(p.name for p in facts.pointers)
    assert facts.outputs == tuple(value.name for value in model.graph.output)


def damage(data: bytes, path: tuple[int, ...], number: int, how: str) -> bytes:
    """Change the `number`-th field at `path` that there is, counted round."""
    out, parts = [], list(wire.fields(data))
    places = [at for at, (field, _, _) in enumerate(parts) if field == path[0]]
    chosen = places[number % len(places)] if places else -1
    for at, (field, kind, value) in enumerate(parts):
        again = wire._field(field, kind, value)
        if at == chosen and len(path) > 1:
            again = wire._field(field, kind, damage(wire.bytes_of(value), path[1:], number, how))
        elif at == chosen:
            again = {
                "double": again + again,
                "second, empty": again + wire._field(field, kind, 0 if kind == 0 else b""),
                "other number": wire._field(field + 1, kind, value),
                "cut": again[:-1],
                "key again": again[:1] + again,
            }[how]
        out.append(again)
    return b"".join(out)


def test_graphs_are_there():
    """The test above has something to look at."""
    assert len(GRAPHS) >= 15
