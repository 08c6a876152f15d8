"""Looking into ONNX files without the onnx package.

That what it sees is true is tested in tests/export/test_graph_facts.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import wire
from fuzzing import examples
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gte_runtime.errors import BundleError
from gte_runtime.format.graph import GraphFacts, Pointer, inspect_graph

GTE_MINI = Path(__file__).parents[3] / "models" / "gte-mini"
CPU = (GTE_MINI / "cpu-fp32.table-fp16.onnx").read_bytes()
PORTABLE = (GTE_MINI / "portable-fp32.table-fp16.onnx").read_bytes()

TENSOR_NAME, TENSOR_RAW, ATTRIBUTE, ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPH, SPARSE = (
    8,
    9,
    5,
    5,
    10,
    6,
    15,
)
LITTLE = wire.message(
    (wire.MODEL_IR, 9),
    (
        wire.MODEL_GRAPH,
        wire.message(
            (wire.GRAPH_NODE, wire.message((1, b"x"), (2, b"y"), (wire.NODE_OP, b"Relu"))),
            (
                wire.GRAPH_INITIALIZER,
                wire.message(
                    (TENSOR_NAME, b"w"),
                    (
                        wire.TENSOR_EXTERNAL,
                        wire.message((wire.PAIR_KEY, b"location"), (wire.PAIR_VALUE, b"w.bin")),
                    ),
                    (
                        wire.TENSOR_EXTERNAL,
                        wire.message((wire.PAIR_KEY, b"offset"), (wire.PAIR_VALUE, b"4096")),
                    ),
                    (
                        wire.TENSOR_EXTERNAL,
                        wire.message((wire.PAIR_KEY, b"length"), (wire.PAIR_VALUE, b"16")),
                    ),
                    (14, 1),
                ),
            ),
            (wire.GRAPH_INPUT, wire.message((wire.INFO_NAME, b"x"))),
            (wire.GRAPH_OUTPUT, wire.message((wire.INFO_NAME, b"y"))),
        ),
    ),
    (wire.MODEL_OPSET, wire.message((wire.OPSET_DOMAIN, b""), (wire.OPSET_VERSION, 20))),
)
"""y = Relu(x), and a tensor in another file."""


def refused(data: bytes) -> None:
    with pytest.raises(BundleError) as caught:
        inspect_graph(data, "a.onnx")
    assert type(caught.value) is BundleError
    assert str(caught.value).startswith("a.onnx: not an ONNX graph: ")
    assert len(str(caught.value)) < 400


def within(graph: bytes) -> bytes:
    """LITTLE with more inside its graph."""
    return wire.edit(LITTLE, (wire.MODEL_GRAPH,), lambda old: wire.bytes_of(old) + graph)


def test_a_little_graph():
    """All that a graph asks of its host."""
    assert inspect_graph(LITTLE, "a.onnx") == GraphFacts(
        operators=("Relu",),
        opsets={"": 20},
        inputs=("x",),
        outputs=("y",),
        pointers=(Pointer("w", "w.bin", 4096, 16),),
        largest_inside=0,
    )


@pytest.mark.slow
def test_shipped_graphs_carry_no_weights():
    """Every initializer points into a weight file; what lies inside are a few shapes."""
    for file in sorted(GTE_MINI.parent.glob("*/*.onnx")):
        facts = inspect_graph(file.read_bytes(), "a.onnx")
        assert len(facts.pointers) >= 50
        assert all(pointer.length > 0 and pointer.offset % 4096 == 0 for pointer in facts.pointers)
        assert facts.largest_inside < 100


def test_operators_of_other_domains_and_of_branches():
    """Fused operators are named with their domain, and the branches of `If` are looked into."""
    assert inspect_graph(CPU, "a.onnx").opsets == {"": 20, "com.microsoft": 1}
    assert "com.microsoft::MultiHeadAttention" in inspect_graph(CPU, "a.onnx").operators
    inner = wire.message(
        (wire.GRAPH_NODE, wire.message((wire.NODE_OP, b"Frobnicate"), (wire.NODE_DOMAIN, b"org.example")))
    )
    branch = wire.message((wire.NODE_OP, b"If"), (ATTRIBUTE, wire.message((ATTRIBUTE_GRAPH, inner))))
    assert inspect_graph(within(wire.message((wire.GRAPH_NODE, branch))), "a.onnx").operators == (
        "If",
        "Relu",
        "org.example::Frobnicate",
    )


EXTERNAL = wire.message(
    (TENSOR_NAME, b"hidden"),
    (wire.TENSOR_EXTERNAL, wire.message((wire.PAIR_KEY, b"location"), (wire.PAIR_VALUE, b"/etc/passwd"))),
)


def _attribute(field: int, value: bytes) -> bytes:
    return wire.message(
        (wire.GRAPH_NODE, wire.message((wire.NODE_OP, b"If"), (ATTRIBUTE, wire.message((field, value)))))
    )


@pytest.mark.parametrize(
    "place",
    [
        wire.message((wire.GRAPH_INITIALIZER, EXTERNAL)),
        _attribute(ATTRIBUTE_TENSOR, EXTERNAL),
        _attribute(ATTRIBUTE_TENSORS, EXTERNAL),
        _attribute(ATTRIBUTE_GRAPH, wire.message((wire.GRAPH_INITIALIZER, EXTERNAL))),
        wire.message((SPARSE, wire.message((1, EXTERNAL)))),
        wire.message((SPARSE, wire.message((2, EXTERNAL)))),
        _attribute(22, wire.message((1, EXTERNAL))),
    ],
    ids=[
        "initializer",
        "attribute",
        "attributes",
        "branch",
        "sparse values",
        "sparse indices",
        "sparse attribute",
    ],
)
def test_a_pointer_is_found_wherever_it_stands(place: bytes):
    """B-47: no place of a graph hides a path to another file."""
    assert Pointer("hidden", "/etc/passwd", 0, -1) in inspect_graph(within(place), "a.onnx").pointers


@pytest.mark.parametrize("place", [(TENSOR_RAW, b"x" * 1000)])
def test_what_lies_inside(place: tuple[int, bytes]):
    """The largest tensor in the file itself."""
    assert (
        inspect_graph(
            within(wire.message((wire.GRAPH_INITIALIZER, wire.message((TENSOR_NAME, b"big"), place)))),
            "a.onnx",
        ).largest_inside
        == 1000
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"not a graph",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 611\n",
        b"<!DOCTYPE html><html>404</html>",
        b"PK\3\4" + bytes(100),
        b"\xff" * 100,
        wire.message((wire.MODEL_IR, 9)),
        wire.message((wire.MODEL_GRAPH, 5)),
        wire.message((wire.MODEL_GRAPH, b""), (wire.MODEL_OPSET, 5)),
        wire.message(
            (wire.MODEL_GRAPH, wire.message((wire.GRAPH_INPUT, wire.message((wire.INFO_NAME, b"\xff")))))
        ),
        wire.message((wire.MODEL_GRAPH, wire.message((wire.GRAPH_NODE, wire.message((wire.NODE_OP, 3)))))),
        wire.set_pointer(LITTLE, "offset", "abc"),
        wire.set_pointer(LITTLE, "offset", ""),
        wire.set_pointer(LITTLE, "length", "0x10"),
        wire.set_pointer(LITTLE, "length", "9" * 5000),
        wire.set_pointer(LITTLE, "length", " 16"),
        wire.set_pointer(LITTLE, "length", "1_6"),
        wire.set_pointer(LITTLE, "length", "+16"),
    ],
    ids=[
        *(
            "empty",
            "zero",
            "words",
            "lfs",
            "html",
            "zip",
            "0xFF",
            "no graph",
            "number for graph",
            "number for opset",
        ),
        *(
            "name of other bytes",
            "number for operator",
            "offset abc",
            "no offset",
            "offset 0x10",
            "long offset",
            "space in length",
            "underscore in length",
            "sign of length",
        ),
    ],
)
def test_bytes_that_are_no_graph(data: bytes):
    """B-45, B-48: whatever else the file holds, a BundleError says so."""
    refused(data)


def test_branches_without_end():
    """B-55: branches nested a thousand deep are refused, not walked."""
    graph = b""
    for _ in range(3000):
        node = wire.message((wire.NODE_OP, b"If"), (ATTRIBUTE, wire.message((ATTRIBUTE_GRAPH, graph))))
        graph = wire.message((wire.GRAPH_NODE, node))
    refused(wire.message((wire.MODEL_GRAPH, graph)))


def test_functions_are_not_looked_into():
    """B-55: a model with functions of its own could hide operators there; no graph of ours has any."""
    refused(LITTLE + wire.message((25, wire.message((1, b"f")))))


def test_every_truncation_of_a_little_graph():
    """A graph cut at any byte is refused, or ends between two fields and lacks the rest."""
    for cut in range(len(LITTLE)):
        try:
            facts = inspect_graph(LITTLE[:cut], "a.onnx")
        except BundleError:
            continue
        assert facts.opsets == {}


@settings(max_examples=examples(60))
@given(cut=st.integers(0, len(PORTABLE) - 1))
def test_truncations_of_a_shipped_graph(cut: int):
    """The same for a real one, whose graph is one long field."""
    try:
        inspect_graph(PORTABLE[:cut], "a.onnx")
    except BundleError:
        event("refused")
    else:
        event("only the fields after the graph are gone")
        assert cut > len(PORTABLE) - 200


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes):
    """Random bytes end in facts or in a BundleError."""
    try:
        inspect_graph(data, "a.onnx")
    except BundleError:
        event("refused")


@pytest.mark.slow
@settings(max_examples=examples(400))
@given(st.lists(st.tuples(st.integers(0, len(LITTLE) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_other_bytes_in_a_little_graph(changes: list[tuple[int, int]]):
    """Bytes of other values end in facts or in a BundleError."""
    data = bytearray(LITTLE)
    for at, value in changes:
        data[at] = value
    try:
        inspect_graph(bytes(data), "a.onnx")
    except BundleError:
        event("refused")
    else:
        event("read")


HIDDEN_NODE = wire.message((wire.GRAPH_NODE, wire.message((wire.NODE_OP, b"Loop"))))
GRAPH, INITIALIZER = wire.MODEL_GRAPH, wire.GRAPH_INITIALIZER
TWICE = {
    "graph in front": wire.message((GRAPH, HIDDEN_NODE)) + LITTLE,
    "graph behind": LITTLE + wire.message((GRAPH, HIDDEN_NODE)),
    "empty graph behind": LITTLE + wire.message((GRAPH, b"")),
    "version of a domain": LITTLE + wire.message((wire.MODEL_OPSET, wire.message((wire.OPSET_VERSION, 21)))),
    "operator of a node": wire.edit(
        LITTLE,
        (GRAPH, wire.GRAPH_NODE),
        lambda node: wire.bytes_of(node) + wire.message((wire.NODE_OP, b"Loop")),
    ),
    "location": wire.edit(
        LITTLE,
        (GRAPH, INITIALIZER),
        lambda tensor: (
            wire.bytes_of(tensor)
            + wire.message(
                (wire.TENSOR_EXTERNAL, wire.message((wire.PAIR_KEY, b"location"), (wire.PAIR_VALUE, b"x")))
            )
        ),
    ),
    "branch of an attribute": within(
        wire.message(
            (
                wire.GRAPH_NODE,
                wire.message(
                    (wire.NODE_OP, b"If"),
                    (ATTRIBUTE, wire.message((ATTRIBUTE_GRAPH, HIDDEN_NODE), (ATTRIBUTE_GRAPH, b""))),
                ),
            )
        )
    ),
    "tensor of an attribute": within(
        wire.message(
            (
                wire.GRAPH_NODE,
                wire.message(
                    (ATTRIBUTE, wire.message((ATTRIBUTE_TENSOR, EXTERNAL), (ATTRIBUTE_TENSOR, b"")))
                ),
            )
        )
    ),
    "value of a pair": wire.edit(
        LITTLE,
        (GRAPH, INITIALIZER, wire.TENSOR_EXTERNAL),
        lambda pair: wire.bytes_of(pair) + wire.message((wire.PAIR_VALUE, b"x")),
    ),
}


@pytest.mark.parametrize("what", TWICE)
def test_what_stands_twice(what: str):
    """A second value of a field that is not repeated is merged by one reader and replaces the first for
    another, so ONNX Runtime would run what was not inspected."""
    refused(TWICE[what])


UNKNOWN = {
    "training information": LITTLE + wire.message((20, wire.message((1, HIDDEN_NODE)))),
    "field of no version": LITTLE + wire.message((1000, 5)),
    "tag of 36 bits": LITTLE + b"\xba\x80\x80\x80\x80\x01\x00",
    "graph as a number": LITTLE + b"\x38\x05",
    "group": LITTLE + b"\x3b\x3c",
    "field 0": LITTLE + b"\x02\x00",
    "length beyond the end": LITTLE + b"\x72\xff\xff\xff\xff\x0f",
    "pointer with prepacked weights": wire.edit(
        LITTLE,
        (GRAPH, INITIALIZER),
        lambda tensor: (
            wire.bytes_of(tensor)
            + wire.message(
                (
                    wire.TENSOR_EXTERNAL,
                    wire.message((wire.PAIR_KEY, b"prepacked_0"), (wire.PAIR_VALUE, b"k|0;9")),
                )
            )
        ),
    ),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_not_known(what: str):
    """A field, wire type or key that no graph of ours has could hold what is not inspected."""
    refused(UNKNOWN[what])
