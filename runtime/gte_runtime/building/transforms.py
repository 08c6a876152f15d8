"""The transforms of layouts: how each tensor of a weight file is made from a checkpoint's tensors. Pure.

There is one function for each name in `format.layout.TRANSFORM_NAMES`. It yields the tensor's values, in one
piece or, for the embedding table, in several. In the docstrings, weights are [out, in] in the checkpoint and
[in, out] in weight files; "factors" are those of `int8`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import all_finite
from ..errors import BundleError
from ..format.layout import Tensor
from .material import CHUNK_ROWS, Material

Array = NDArray[Any]

LEVELS = 127
"""int8 values on either side of zero. -128 is not used, so that the range is symmetric."""


def pieces(tensor: Tensor, material: Material) -> Iterator[Array]:
    """Yield a tensor's values in C order, in one or several pieces, little-endian in the tensor's dtype.

    Raises:
        BundleError: the transform returned another number of values than the tensor's shape has, or a value
            that is not finite in its type.
    """
    dtype = np.dtype(tensor.dtype)
    done = 0
    for piece in TRANSFORMS[tensor.transform](tensor, material):
        done += piece.size
        with np.errstate(over="ignore"):  # told below, with the tensor's name
            written = np.ascontiguousarray(piece, dtype=dtype.newbyteorder("<"))
        if not all_finite(piece if dtype.kind == "i" else written):
            raise BundleError(
                f"{tensor.name}: {tensor.transform} gave a value that {tensor.dtype} cannot hold; "
                "build another variant, such as cpu-fp32"
            )
        yield written
    if done != prod(tensor.shape):
        raise BundleError(
            f"{tensor.name}: {tensor.transform} gave {done} values for shape {list(tensor.shape)}"
        )


def _copy(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The tensor unchanged."""
    yield from material.weights.read_rows(tensor.sources[0], CHUNK_ROWS)


def _transpose(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A weight [out, in] as [in, out], which MatMul takes."""
    yield material.weights.read(tensor.sources[0]).T


def _transpose_beside(tensor: Tensor, material: Material) -> Iterator[Array]:
    """Several weights [out, in] as one [in, out + out + ...], columns in the order of the sources."""
    yield np.concatenate([material.weights.read(name).T for name in tensor.sources], axis=1)


def _zeros(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A bias that an operator requires and the model does not have."""
    yield np.zeros(tensor.shape, np.float32)


def _ones(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The steps and factors of a table that is not rounded."""
    yield np.ones(tensor.shape, np.float32)


def _first_row_or_zeros(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The first row of the token-type table; zeros where there is no table. Adding zeros changes no value."""
    weights = material.weights
    yield (
        weights.read(tensor.sources[0])[0]
        if tensor.sources[0] in weights
        else np.zeros(tensor.shape, np.float32)
    )


def _transpose_or_zeros(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The sparse head's weight [1, H] as [H, 1], or its bias; zeros without a head."""
    weights = material.weights
    yield (
        weights.read(tensor.sources[0]).T
        if tensor.sources[0] in weights
        else np.zeros(tensor.shape, np.float32)
    )


def _fold_value_bias(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The attention output's bias with the value bias folded in: bo + Wo bv, computed in float64.

    Attention weights sum to one, so the value bias passes through attention unchanged.
    """
    output_bias, output_weight, value_bias = (
        material.weights.read(name).astype(np.float64) for name in tensor.sources
    )
    yield output_bias + output_weight @ value_bias


def _add(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A norm's bias plus the bias of the product that is added to the norm's output."""
    yield np.sum([material.weights.read(name).astype(np.float64) for name in tensor.sources], axis=0)


def _add_folded(tensor: Tensor, material: Material) -> Iterator[Array]:
    """As `add`, where that product is the attention output, whose bias has the value bias folded in."""
    norm_bias, output_bias, output_weight, value_bias = (
        material.weights.read(name).astype(np.float64) for name in tensor.sources
    )
    yield norm_bias + output_bias + output_weight @ value_bias


def _divide(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A norm's weight or bias, divided by the factors of the activation that the norm computes."""
    name, place = tensor.sources
    yield material.weights.read(name) / material.factors(place)


def _quantize(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A product's weight times the factors of the activation that it reads, in int8, [in, out]."""
    name, place = tensor.sources
    weight = _multiplied(name, place, material)
    yield np.rint(weight / _steps(weight, 0))


def _quantize_scale(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The scale of each column of an int8 product, [out].

    It is the column's step over LEVELS, because a token's step is its largest value over LEVELS and the graph
    multiplies by the largest value only. It is also divided by the factors of the activation that the product
    computes, if any.
    """
    name, place, *given = tensor.sources
    scale = _steps(_multiplied(name, place, material), 0)[0] / LEVELS
    yield scale / material.factors(given[0]) if given else scale


def _multiply(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The weight of a product that stays in float32, [in, out].

    It is what `quantize` rounds, divided by the factors of the activation that the product computes, if any.
    """
    name, place, *_ = tensor.sources
    yield _multiplied(name, place, material) / _given_factors(tensor, material)


def _multiply_inner(tensor: Tensor, material: Material) -> Iterator[Array]:
    """As `multiply`, without the rows and columns that `quantize_inner` leaves out."""
    yield _inner(tensor, material) / _given_factors(tensor, material)


def _quantize_inner(tensor: Tensor, material: Material) -> Iterator[Array]:
    """As `quantize`, without the rows and columns that stay in float32."""
    weight = _inner(tensor, material)
    yield np.rint(weight / _steps(weight, 0))


def _quantize_inner_scale(tensor: Tensor, material: Material) -> Iterator[Array]:
    """As `quantize_scale`, for `quantize_inner`."""
    yield _steps(_inner(tensor, material), 0)[0] / LEVELS / _given_factors(tensor, material)


def _outlier_mask(tensor: Tensor, material: Material) -> Iterator[Array]:
    """For each channel of an activation 0 if it stays in float32, else 1."""
    mask = np.ones(tensor.shape, np.float32)
    mask[material.outliers(tensor.sources[0])] = 0
    yield mask


def _outlier_select(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A matrix [K, C] whose product with an activation is the C of its K channels that stay in float32.

    With a weight and a norm as sources it is [K, 2 C]: it is followed by the C columns of that weight that
    are largest after the norm, so that these outputs of the product are computed in float32.
    """
    place, *columns = tensor.sources
    channels = material.outliers(place)
    picks = np.zeros((tensor.shape[0], len(channels)))
    picks[channels, np.arange(len(channels))] = 1
    if columns:
        name, norm = columns
        picks = np.concatenate(
            [picks, _multiplied(name, place, material)[:, material.outliers(norm)]], axis=1
        )
    yield picks


def _outlier_rows(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The rows [C, N] of a product's weight that belong to the C channels that stay in float32.

    With a norm as a source it is [2 C, N]: the columns that `outlier_select` holds are zero in the first C
    rows, and the other C rows, of zeros and ones, add the outputs for those columns in their places.
    """
    name, place, *given = tensor.sources
    rows = _multiplied(name, place, material)[material.outliers(place)] / _given_factors(tensor, material)
    if columns := _float_columns(given, material):
        rows[:, columns] = 0
        rows = np.concatenate([rows, np.eye(rows.shape[1])[columns]])
    yield rows


def _inner(tensor: Tensor, material: Material) -> NDArray[np.float64]:
    """A product's weight times factors, [in, out], with zeros where it stays in float32."""
    name, place, *given = tensor.sources
    weight = _multiplied(name, place, material)
    weight[material.outliers(place)] = 0
    weight[:, _float_columns(given, material)] = 0
    return weight


def _given_factors(tensor: Tensor, material: Material) -> NDArray[np.float64] | float:
    """The factors of the activation that a product computes; 1 where its output is added before a norm."""
    given = [place for place in tensor.sources[2:] if not _is_norm(place)]
    return material.factors(given[0]) if given else 1.0


def _float_columns(given: Iterable[str], material: Material) -> list[int]:
    """The columns of a product that are largest after the norm in `given`; none where there is no norm."""
    return [column for place in given if _is_norm(place) for column in material.outliers(place).tolist()]


def _is_norm(place: str) -> bool:
    return place.endswith("_norm")


def _quantize_table(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A table in int8: columns divided by their factors, then each row rounded with its own step."""
    for rows in _divided_rows(tensor.sources[0], material):
        yield np.rint(rows / _steps(rows, 1))


def _quantize_table_rows(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The step of each row of an int8 table, [V, 1]."""
    for rows in _divided_rows(tensor.sources[0], material):
        yield _steps(rows, 1)


def _quantize_table_columns(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The factor of each column of an int8 table, [H]."""
    yield material.column_factors(tensor.sources[0])


def _divided_rows(name: str, material: Material) -> Iterator[NDArray[np.float32]]:
    """A table with its columns divided by their factors, in pieces of some rows."""
    divisors = material.column_factors(name).astype(np.float32)
    for rows in material.weights.read_rows(name, CHUNK_ROWS):
        yield rows.astype(np.float32) / divisors


def _multiplied(name: str, place: str, material: Material) -> NDArray[np.float64]:
    """A weight as [in, out], its rows times the factors of the activation that it reads."""
    return material.weights.read(name).T * material.factors(place)[:, None]


def _steps(values: Array, axis: int) -> Array:
    """For each row or column the step for which its largest value becomes LEVELS; 1 where all are zero."""
    largest = np.abs(values).max(axis, keepdims=True)
    return np.where(largest > 0, largest, LEVELS) / LEVELS


def _rope_cos(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The table of cosines, [positions, head size / 2]."""
    yield material.rope.tables(tensor.shape[0])[0]


def _rope_sin(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The table of sines, [positions, head size / 2]."""
    yield material.rope.tables(tensor.shape[0])[1]


TRANSFORMS: dict[str, Callable[[Tensor, Material], Iterator[Array]]] = {
    "copy": _copy,
    "transpose": _transpose,
    "transpose_beside": _transpose_beside,
    "zeros": _zeros,
    "ones": _ones,
    "first_row_or_zeros": _first_row_or_zeros,
    "transpose_or_zeros": _transpose_or_zeros,
    "fold_value_bias": _fold_value_bias,
    "add": _add,
    "add_folded": _add_folded,
    "divide": _divide,
    "quantize": _quantize,
    "quantize_scale": _quantize_scale,
    "multiply": _multiply,
    "multiply_inner": _multiply_inner,
    "quantize_inner": _quantize_inner,
    "quantize_inner_scale": _quantize_inner_scale,
    "outlier_mask": _outlier_mask,
    "outlier_select": _outlier_select,
    "outlier_rows": _outlier_rows,
    "quantize_table": _quantize_table,
    "quantize_table_rows": _quantize_table_rows,
    "quantize_table_columns": _quantize_table_columns,
    "rope_cos": _rope_cos,
    "rope_sin": _rope_sin,
}
