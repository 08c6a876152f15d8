"""The graph evaluator without onnx and PyTorch: kernels by example, and the golden model's packed graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import Golden
from numpy.typing import NDArray

from gte_runtime.building.build import build
from gte_runtime.building.judge import judge
from gte_runtime.bundle.directory import Bundle
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.errors import BundleError, Cancelled
from gte_runtime.inference.batch import make_batch
from gte_runtime.proof import graph_in_numpy as evaluator
from gte_runtime.proof.graph_in_numpy import KERNELS, Evaluator, Node, NumpySession
from gte_runtime.proof.oracle import forward

Array = NDArray[Any]
MICROSOFT = "com.microsoft::"


def kernel(name: str, *inputs: Array | None, outputs: int = 1, **attributes: Any) -> Any:
    return KERNELS[name](Node(name, (), ("out",) * outputs, attributes), *inputs)


def half(*values: float) -> Array:
    return np.array(values, np.float16)


def test_float16_is_rounded_once():
    """1 + 2⁻¹¹ lies between two float16: sums and products are computed in float32 and then rounded."""
    assert kernel("MatMul", half(1, 1, 1)[None], half(1, 2**-11, 2**-11)[:, None])[0, 0] == 1 + 2**-10
    assert kernel("Add", half(1), half(2**-11))[0] == 1
    assert kernel("Mul", half(1.5), half(1.5))[0] == 2.25
    for name, inputs in (
        ("Add", (half(1), half(1))),
        ("Mul", (half(1), half(1))),
        ("Relu", (half(-1),)),
        ("Tanh", (half(1),)),
        ("Gelu", (half(1),)),
    ):
        assert kernel(name, *inputs).dtype == np.float16


def test_functions_of_one_number():
    """Their values by the documentation of each, on both sides of 0."""
    x = np.array([-2, 0, 2], np.float32)
    np.testing.assert_allclose(kernel("Relu", x), [0, 0, 2])
    np.testing.assert_allclose(kernel("Tanh", x), [-0.9640276, 0, 0.9640276], rtol=1e-6)
    np.testing.assert_allclose(kernel("Gelu", x), [-0.04550026, 0, 1.9544997], rtol=1e-5)
    assert kernel("Cast", x, to=10).dtype == np.float16
    assert kernel("Cast", x, to=7).dtype == np.int64
    assert kernel("Constant", value=x) is x


@pytest.mark.parametrize("index", [[0, 8, 3], [-9, -1, 0], []])
def test_rows_of_a_table(index: list[int]):
    """From the first to the last, also counted from the end; rows of no indices are none."""
    table = np.arange(18).reshape(9, 2)
    found = kernel("Gather", table, np.array(index, np.int64))
    assert found.tolist() == [table[row].tolist() for row in index]


@pytest.mark.parametrize("index", [[9], [-10], [0, 9], [-10, 3]])
def test_rows_behind_a_table(index: list[int]):
    """CUDA would read memory that is none of the table's."""
    with pytest.raises(IndexError, match="into 9 rows"):
        kernel("Gather", np.zeros((9, 2)), np.array(index))


def test_columns_of_a_table():
    """Along another axis, that axis is what limits the indices."""
    assert kernel("Gather", np.arange(6).reshape(2, 3), np.array([2, 0]), axis=1).tolist() == [[2, 0], [5, 3]]
    with pytest.raises(IndexError, match="into 2 rows"):
        kernel("Gather", np.arange(6).reshape(3, 2), np.array([2, 0]), axis=1)


def test_shapes():
    """0 keeps a size, -1 is what is left; slices may leave out axes and steps."""
    x = np.arange(24).reshape(2, 3, 4)
    assert kernel("Reshape", x, np.array([0, -1])).shape == (2, 12)
    assert kernel("Unsqueeze", x, np.array([0, 4])).shape == (1, 2, 3, 4, 1)
    assert np.array_equal(kernel("Slice", x, np.array([1, 0]), np.array([2, 2])), x[1:2, 0:2])
    assert np.array_equal(
        kernel("Slice", x, np.array([0]), np.array([4]), np.array([2]), np.array([3])), x[..., 0:4:3]
    )
    for sizes in (None, np.array([2, 2])):
        found = kernel("Split", x, sizes, outputs=2, axis=-1)
        assert [part.tolist() for part in found] == [x[..., :2].tolist(), x[..., 2:].tolist()]
    assert [part.shape for part in kernel("Split", x, np.array([1, 2, 1]), outputs=3, axis=2)] == [
        (2, 3, size) for size in (1, 2, 1)
    ]
    assert [part.shape for part in kernel("Split", x, np.array([1, 1]), outputs=2)] == [(1, 3, 4)] * 2


def test_layer_normalization():
    """(x - mean) / sqrt(variance + epsilon) x weight + bias; the other one adds three inputs first."""
    x, weight, bias = np.array([[1, 3], [5, 5]], np.float32), half(2, 4), half(10, 20)
    expected = [[10 - 2 / np.sqrt(1.5), 20 + 4 / np.sqrt(1.5)], [10, 20]]
    np.testing.assert_allclose(
        kernel("LayerNormalization", x, weight, bias, epsilon=0.5), expected, rtol=1e-6
    )
    found = kernel(
        MICROSOFT + "SkipLayerNormalization", x - 3, x * 0 + 1, weight, bias, half(2, 2), epsilon=0.5
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rotation_by_position():
    """Dimensions i and i + d/2 of each head turn by the angle of the token's position: here a quarter."""
    cos, sin = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    x = np.array([[[1, 2, 3, 4], [1, 2, 3, 4]]], np.float32)
    found = kernel(MICROSOFT + "RotaryEmbedding", x, np.array([[0, 1]]), cos, sin, num_heads=2)
    assert found.tolist() == [[[1, 2, 3, 4], [-2, 1, -4, 3]]]
    for positions in ([[0, 2]], [[-1, 0]]):
        with pytest.raises(IndexError, match="the table has 2"):
            kernel(MICROSOFT + "RotaryEmbedding", x, np.array(positions), cos, sin, num_heads=2)


def attention(bounds: list[int], longest: int = 3, tokens: int = 5, bias: Array | None = None) -> Array:
    q, k, v = np.random.default_rng(1).standard_normal((3, tokens, 4), np.float32)
    offset = np.zeros((len(bounds) - 1, longest), np.int32)
    found: Array = kernel(
        MICROSOFT + "PackedMultiHeadAttention", q, k, v, bias, offset, np.array(bounds, np.int32), num_heads=2
    )
    return found


def test_packed_attention():
    """Text by text and head by head, against the formula; rows after the last bound are not written."""
    q, k, v = np.random.default_rng(1).standard_normal((3, 5, 4), np.float32).astype(np.float64)
    found = attention([0, 3, 3, 4])
    assert found.dtype == np.float32
    assert np.isnan(found[4:]).all()
    for start, end in ((0, 3), (3, 4)):
        for head in (slice(0, 2), slice(2, 4)):
            scores = np.exp(q[start:end, head] @ k[start:end, head].T / np.sqrt(2))
            expected = scores @ v[start:end, head] / scores.sum(1)[:, None]
            np.testing.assert_allclose(found[start:end, head], expected, rtol=1e-5)


@pytest.mark.parametrize("bounds", [[0, 3, 5], [0, 2, 5], [0, 0, 3], [2, 5]])
def test_bounds_that_fit(bounds: list[int]):
    """A text may be as long as the longest, and the last one may end with the tokens."""
    attention(bounds)


@pytest.mark.parametrize(
    ("bounds", "longest", "tokens"),
    [([0, 4, 5], 3, 5), ([0, 3, 5], 3, 4), ([0, 3, 2], 3, 5), ([0, 1, 5], 3, 5)],
)
def test_bounds_that_do_not_fit(bounds: list[int], longest: int, tokens: int):
    """A text longer than the longest, tokens behind the last, a text that ends before it begins."""
    with pytest.raises(ValueError, match="do not fit"):
        attention(bounds, longest, tokens)


def test_what_packed_graphs_do_not_have():
    """A bias, or queries of another shape than keys: the evaluator would have to guess."""
    with pytest.raises(ValueError, match="with bias"):
        attention([0, 3], bias=np.zeros(4))
    q = np.zeros((5, 4), np.float32)
    for query, key in ((q, q[:4]), (q[None], q[None])):
        with pytest.raises(ValueError, match="without bias"):
            kernel(
                MICROSOFT + "PackedMultiHeadAttention",
                query, key, q, None, np.zeros((1, 5)), np.array([0, 5]), num_heads=2,
            )  # fmt: skip


def test_split_gelu():
    """left x gelu(right), for the widths that have a kernel."""
    x, bias = np.zeros((1, 2560), np.float32), np.zeros(2560, np.float32)
    x[0, 7], x[0, 1280 + 7], bias[1280 + 7] = 3, 1, 1
    found = kernel(MICROSOFT + "BiasSplitGelu", x, bias)
    assert found.shape == (1, 1280)
    assert found[0, 7] == pytest.approx(3 * 1.9544997)
    with pytest.raises(ValueError, match="no kernel for a width of 320"):
        kernel(MICROSOFT + "BiasSplitGelu", x[:, :320], bias[:320])


def test_negative_integers():
    """Protobuf stores them as 64 bits."""
    assert [evaluator._signed(value) for value in (0, 5, 2**63 - 1, 2**63, 2**64 - 1)] == [
        0, 5, 2**63 - 1, -(2**63), -1,
    ]  # fmt: skip


# A whole graph


@pytest.fixture(scope="module")
def packed(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint as a bundle for CUDA."""
    bundle = tmp_path_factory.mktemp("packed") / "bundle"
    build(golden.checkpoint, bundle, graphs=golden.graphs, variants=("cuda-fp16",))
    return bundle


def session_of(bundle: Path) -> NumpySession:
    session = judge(bundle, Bundle.open(bundle).manifest, "cuda-fp16")
    assert isinstance(session, NumpySession)
    return session


def test_a_session_gives_what_the_oracle_gives(packed: Path, golden: Golden):
    """Vectors, weights and states of all tokens, several texts in one run; states only when asked for."""
    session = session_of(packed)
    ids = [golden.ids(number) for number in range(3)]
    batch = make_batch(np.arange(3), ids, 128)
    out = session.run(batch, states=True)
    with Checkpoint(golden.checkpoint) as checkpoint:
        expected = [forward(checkpoint, one) for one in ids]
    np.testing.assert_allclose(out.cls, [one.cls for one in expected], atol=0.05)
    np.testing.assert_allclose(out.token_states, np.concatenate([one.hidden for one in expected]), atol=0.05)
    np.testing.assert_allclose(
        out.token_weights, np.concatenate([one.token_weights for one in expected]), atol=0.05
    )
    assert out.token_states.dtype == np.float32
    assert len(out.logits) == 0
    assert len(session.run(batch).token_states) == 0


def test_a_closed_session(packed: Path):
    """As every session: runs after `close` are cancelled; `stop` stops nothing."""
    session = session_of(packed)
    batch = make_batch(np.arange(1), [np.array([0, 5, 2])], 128)
    session.stop(None)
    session.run(batch)
    session.close()
    with pytest.raises(Cancelled, match="closed"):
        session.run(batch)
    assert (session.provider, session.workers) == ("cpu", 1)


def test_weights_end_with_their_file(packed: Path, tmp_path: Path):
    """A file that is one byte short is no weight's; an operator without a kernel here is refused by name."""
    bundle = Bundle.open(packed)
    variant = bundle.manifest.variants["cuda-fp16"]
    graph = bundle.read(variant.graph)
    Evaluator(graph, packed)
    for name in variant.weights:
        (tmp_path / name).write_bytes((packed / name).read_bytes())
    Evaluator(graph, tmp_path)
    for name in variant.weights:
        (tmp_path / name).write_bytes((packed / name).read_bytes()[:1])
    with pytest.raises(BundleError, match="lies outside of"):
        Evaluator(graph, tmp_path)
    with pytest.raises(BundleError, match="cannot be evaluated without its device"):
        Evaluator(graph.replace(b"RotaryEmbedding", b"RotaryEmbeddinG"), packed)
