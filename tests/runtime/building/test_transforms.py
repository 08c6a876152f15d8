"""Layouts: every transform is what its one line of numpy says, and a layout that contradicts itself is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gte_runtime.building.material import CHUNK_ROWS, Material
from gte_runtime.building.transforms import LEVELS, TRANSFORMS, pieces
from gte_runtime.checkpoint.rope import Rope
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.errors import BundleError
from gte_runtime.format.layout import Layout, Tensor

MODELS = Path(__file__).parents[3] / "models"


ROPE = Rope.ntk(head_size=8, theta=20000.0, factor=8.0)


RNG = np.random.default_rng(7)


class Arrays(dict[str, NDArray[np.float32]]):
    """Weights by name, in place of a checkpoint."""

    def read(self, name: str) -> NDArray[np.float32]:
        return self[name]

    def read_rows(self, name: str, chunk: int) -> Iterator[NDArray[Any]]:
        for start in range(0, len(self[name]), chunk):
            yield self[name][start : start + chunk]


WEIGHTS = Arrays(
    table=RNG.standard_normal((2 * CHUNK_ROWS + 3, 4), dtype=np.float32),
    matrix=RNG.standard_normal((6, 4), dtype=np.float32),
    bias=RNG.standard_normal(6, dtype=np.float32),
    row=RNG.standard_normal((1, 4), dtype=np.float32),
    inner=RNG.standard_normal(4, dtype=np.float32),
)


def tensor(
    transform: str,
    shape: tuple[int, ...],
    sources: tuple[str, ...] = (),
    dtype: str = "float32",
    **changes: Any,
) -> Tensor:
    return Tensor(
        **{
            "name": "t",
            "dtype": dtype,
            "shape": shape,
            "offset": 0,
            "transform": transform,
            "sources": sources,
            **changes,
        }
    )


FACTORS = {"read": np.array([1.0, 2.0, 0.5, 4.0]), "given": np.exp2(np.arange(6) / 4)}


COLUMNS = np.array([1.0, 0.5, 2.0, 1.0])


OUTLIERS = {"read": np.array([1, 3]), "next_norm": np.array([0, 4])}


def material(weights: Any, rope: Rope = ROPE) -> Material:
    """With factors that are given, not seen by an oracle."""
    return Material(
        weights,
        rope,
        lambda place: FACTORS.get(place, np.ones(1)),
        lambda name: COLUMNS,
        OUTLIERS.__getitem__,
    )


def made(t: Tensor, weights: Arrays = WEIGHTS) -> NDArray[Any]:
    """What the file would hold, as an array of the promised shape."""
    data = b"".join(piece.tobytes() for piece in pieces(t, material(weights)))
    assert len(data) == t.size
    return np.frombuffer(data, np.dtype(t.dtype).newbyteorder("<")).reshape(t.shape)


def test_every_transform_is_tried():
    """The tests below are those of the format."""
    assert set(TRANSFORMS) == {
        "copy",
        "transpose",
        "transpose_beside",
        "zeros",
        "first_row_or_zeros",
        "transpose_or_zeros",
        "fold_value_bias",
        "add",
        "add_folded",
        "divide",
        "quantize",
        "quantize_scale",
        "multiply",
        "multiply_inner",
        "quantize_inner",
        "quantize_inner_scale",
        "outlier_mask",
        "outlier_select",
        "outlier_rows",
        "quantize_table",
        "quantize_table_rows",
        "quantize_table_columns",
        "ones",
        "rope_cos",
        "rope_sin",
    }


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_copy(dtype: str):
    """A table goes over in pieces, in its order, rounded to the type of the file."""
    np.testing.assert_array_equal(
        made(tensor("copy", WEIGHTS["table"].shape, ("table",), dtype)), WEIGHTS["table"].astype(dtype)
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_transpose(dtype: str):
    """[out, in] becomes [in, out]."""
    np.testing.assert_array_equal(
        made(tensor("transpose", (4, 6), ("matrix",), dtype)), WEIGHTS["matrix"].T.astype(dtype)
    )


def test_first_row():
    """Only the first row of the token types."""
    np.testing.assert_array_equal(made(tensor("first_row_or_zeros", (4,), ("matrix",))), WEIGHTS["matrix"][0])


def test_the_head_is_transposed():
    """[1, H] becomes [H, 1]."""
    np.testing.assert_array_equal(made(tensor("transpose_or_zeros", (4, 1), ("row",))), WEIGHTS["row"].T)


def test_transposed_side_by_side():
    """Columns of several products in one, in the order of the sources."""
    up, gate = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(6, 15, dtype=np.float32).reshape(3, 3)
    beside = made(tensor("transpose_beside", (3, 5), ("up", "gate")), Arrays(up=up, gate=gate))
    np.testing.assert_array_equal(beside, np.concatenate((up.T, gate.T), axis=1))


def test_zeros_that_an_operator_insists_on():
    """No source, and nothing but zeros."""
    np.testing.assert_array_equal(made(tensor("zeros", (5,))), np.zeros(5))


@pytest.mark.parametrize(
    ("transform", "shape"), [("first_row_or_zeros", (4,)), ("transpose_or_zeros", (4, 1))]
)
def test_zeros_where_there_is_none(transform: str, shape: tuple[int, ...]):
    """A checkpoint without token types, or without a sparse head, has zeros in their place."""
    np.testing.assert_array_equal(made(tensor(transform, shape, ("absent",))), np.zeros(shape))


def test_the_value_bias_is_folded():
    """Attention weights sum to one, so bo + Wo bv stands for both biases."""
    exact = WEIGHTS["bias"].astype(np.float64) + WEIGHTS["matrix"].astype(np.float64) @ WEIGHTS[
        "inner"
    ].astype(np.float64)
    np.testing.assert_array_equal(
        made(tensor("fold_value_bias", (6,), ("bias", "matrix", "inner"))), exact.astype(np.float32)
    )


def test_biases_are_added():
    """A norm's bias takes in that of the product which is added to it, and before attention the value bias
    too.
    """
    both = WEIGHTS["bias"].astype(np.float64) * 2
    np.testing.assert_array_equal(made(tensor("add", (6,), ("bias", "bias"))), both.astype(np.float32))
    exact = both + WEIGHTS["matrix"].astype(np.float64) @ WEIGHTS["inner"].astype(np.float64)
    np.testing.assert_array_equal(
        made(tensor("add_folded", (6,), ("bias", "bias", "matrix", "inner"))), exact.astype(np.float32)
    )


def test_a_norm_is_divided():
    """Its output is then over the factors."""
    np.testing.assert_array_equal(
        made(tensor("divide", (4,), ("inner", "read"))),
        (WEIGHTS["inner"] / FACTORS["read"]).astype(np.float32),
    )


def test_a_product_survives_rounding():
    """x W = (x / f) (f W): what int8 and both scales give is x W, each value within half a step of its
    column.
    """
    values = made(tensor("quantize", (4, 6), ("matrix", "read"), "int8"))
    scale = made(tensor("quantize_scale", (6,), ("matrix", "read")))
    divided = made(tensor("quantize_scale", (6,), ("matrix", "read", "given")))
    exact = WEIGHTS["matrix"].T * FACTORS["read"][:, None]
    assert np.abs(values).max() == LEVELS
    assert (np.abs(values).max(axis=0) == LEVELS).all()
    assert (np.abs(values * (scale * LEVELS) - exact) <= scale * LEVELS * 0.5001).all()
    np.testing.assert_allclose(divided, scale / FACTORS["given"], rtol=1e-6)


def test_a_table_survives_rounding():
    """Row step x int8 x column factor is the table, within half a step; a row of zeros stays zero."""
    weights = Arrays(table=WEIGHTS["table"].copy())
    weights["table"][5] = 0
    shape = weights["table"].shape
    values = made(tensor("quantize_table", shape, ("table",), "int8"), weights)
    rows = made(tensor("quantize_table_rows", (shape[0], 1), ("table",)), weights)
    columns = made(tensor("quantize_table_columns", (4,), ("table",)), weights)
    assert (np.abs(values * rows * columns - weights["table"]) <= rows * columns * 0.5001).all()
    assert not values[5].any()


@pytest.mark.parametrize("given", [(), ("given",), ("next_norm",)], ids=["", "factors", "norm"])
def test_parts_of_a_product_are_the_whole(given: tuple[str, ...]):
    """What stays in float32 and what is rounded add up to the product; rounding is at most half a step of
    what is left.
    """
    columns = ("matrix", *given) if "next_norm" in given else ()
    count = 4 if columns else 2
    mask, select = (
        made(tensor("outlier_mask", (4,), ("read",))),
        made(tensor("outlier_select", (4, count), ("read", *columns))),
    )
    sources = ("matrix", "read", *given)
    rows = made(tensor("outlier_rows", (count, 6), sources))
    steps = made(tensor("quantize_inner_scale", (6,), sources)) * LEVELS
    inner = made(tensor("quantize_inner", (4, 6), sources, "int8")) * steps
    whole = WEIGHTS["matrix"].T * FACTORS["read"][:, None] / (FACTORS["given"] if given == ("given",) else 1)
    found = mask[:, None] * inner + select @ rows
    assert np.abs(found - whole).max() > 0
    assert (np.abs(found - whole) <= steps / 2 + 1e-6).all()
    exact = OUTLIERS["read"]
    np.testing.assert_allclose(found[exact], whole[exact], atol=1e-6)
    if columns:
        np.testing.assert_allclose(
            found[:, OUTLIERS["next_norm"]], whole[:, OUTLIERS["next_norm"]], atol=1e-6
        )
    assert not inner[exact].any()


@pytest.mark.parametrize("given", [(), ("given",), ("next_norm",)], ids=["", "factors", "norm"])
def test_a_product_that_stays_in_float(given: tuple[str, ...]):
    """It is what the rounded product stands for, to the precision of float32; in the form for outlying
    channels without the rows and columns that are computed beside it.
    """
    sources = ("matrix", "read", *given)
    whole = WEIGHTS["matrix"].T * FACTORS["read"][:, None] / (FACTORS["given"] if given == ("given",) else 1)
    np.testing.assert_allclose(made(tensor("multiply", (4, 6), sources)), whole, rtol=1e-6)
    whole[OUTLIERS["read"]] = 0
    if given == ("next_norm",):
        whole[:, OUTLIERS["next_norm"]] = 0
    np.testing.assert_allclose(made(tensor("multiply_inner", (4, 6), sources)), whole, rtol=1e-6)


def test_ones_for_a_table_that_is_not_rounded():
    np.testing.assert_array_equal(made(tensor("ones", (5, 1), ("table",))), np.ones((5, 1)))


@pytest.mark.parametrize("which", [0, 1])
def test_rope_tables(which: int):
    """As many rows as the shape has."""
    np.testing.assert_array_equal(
        made(tensor(("rope_cos", "rope_sin")[which], (50, 4))), ROPE.tables(50)[which]
    )


def every_factor(checkpoint: Checkpoint) -> Material:
    a = checkpoint.config.architecture

    def factors(place: str) -> NDArray[np.float64]:
        return np.ones(a.intermediate_size if place.endswith("product") else a.hidden_size)

    return Material(
        checkpoint,
        checkpoint.config.rope,
        factors,
        lambda name: np.ones(a.hidden_size),
        lambda place: np.arange(16),
    )


@pytest.mark.parametrize(
    "name",
    [
        "table-fp16",
        "table-fp32",
        "table-int8",
        "weights-fp32",
        "weights-fp16",
        "weights-int8",
        "weights-int8-outliers",
    ],
)
def test_shipped_layouts_fit_their_model(mini_checkpoint: Path, name: str):
    """Every tensor of the default model's layouts can be made, and fills its place."""
    layout = Layout.from_json((MODELS / "gte-mini" / f"{name}.layout.json").read_text(encoding="utf-8"))
    assert layout.file == f"{name}.bin"
    with Checkpoint(mini_checkpoint) as checkpoint:
        for t in layout.tensors:
            assert sum(piece.nbytes for piece in pieces(t, every_factor(checkpoint))) == t.size


@pytest.mark.parametrize(
    ("transform", "shape", "sources"),
    [
        ("copy", (6, 5), ("matrix",)),
        ("copy", (5, 4), ("matrix",)),
        ("transpose", (4, 5), ("matrix",)),
        ("first_row_or_zeros", (6,), ("matrix",)),
        ("fold_value_bias", (4,), ("bias", "matrix", "inner")),
        ("rope_cos", (50, 3), ()),
    ],
)
def test_a_shape_that_a_transform_does_not_give(
    transform: str, shape: tuple[int, ...], sources: tuple[str, ...]
):
    """A layout of another checkpoint is told by the tensor and both sizes."""
    with pytest.raises(BundleError, match=f"t: {transform} gave [0-9]+ values for shape"):
        made(tensor(transform, shape, sources))
