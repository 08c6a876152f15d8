"""How each tensor of a weight file is made from a checkpoint's: one function for each name that a layout may use. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from ..format.layout import Tensor
from .material import CHUNK_ROWS, Material

Array = NDArray[Any]

LEVELS = 127
"""Steps of int8 on either side of zero. -128 is not used, so that values and their negatives round alike."""


def pieces(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The tensor's values in order, in pieces, in the dtype of the file.

    Raises:
        BundleError: a transform gave another shape than the layout promises.
    """
    dtype = np.dtype(tensor.dtype)
    done = 0
    for piece in TRANSFORMS[tensor.transform](tensor, material):
        done += piece.size
        yield np.ascontiguousarray(piece, dtype=dtype.newbyteorder("<"))
    if done != prod(tensor.shape):
        raise BundleError(
            f"{tensor.name}: {tensor.transform} gave {done} values for shape {list(tensor.shape)}"
        )


def _copy(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The tensor as it is; a table in pieces."""
    yield from material.weights.read_rows(tensor.sources[0], CHUNK_ROWS)


def _transpose(tensor: Tensor, material: Material) -> Iterator[Array]:
    """[out, in] of PyTorch to [in, out] of MatMul."""
    yield material.weights.read(tensor.sources[0]).T


def _transpose_beside(tensor: Tensor, material: Material) -> Iterator[Array]:
    """Several [out, in] as one [in, out + out ..], columns in the order of the sources."""
    yield np.concatenate([material.weights.read(name).T for name in tensor.sources], axis=1)


def _zeros(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A bias that an operator insists on and the model does not have."""
    yield np.zeros(tensor.shape, np.float32)


def _first_row_or_zeros(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The token-type row. Adding zeros is exact, so a checkpoint without the table needs no other graph."""
    weights = material.weights
    yield (
        weights.read(tensor.sources[0])[0]
        if tensor.sources[0] in weights
        else np.zeros(tensor.shape, np.float32)
    )


def _transpose_or_zeros(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The sparse head, [1, H] to [H, 1]; zeros where there is none, and the manifest says so."""
    weights = material.weights
    yield (
        weights.read(tensor.sources[0]).T
        if tensor.sources[0] in weights
        else np.zeros(tensor.shape, np.float32)
    )


def _fold_value_bias(tensor: Tensor, material: Material) -> Iterator[Array]:
    """bo + Wo bv. Attention weights sum to one, so the value bias passes through attention unchanged."""
    output_bias, output_weight, value_bias = (
        material.weights.read(name).astype(np.float64) for name in tensor.sources
    )
    yield output_bias + output_weight @ value_bias


def _add(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A norm's bias and the bias of the product that is added to what the norm gives."""
    yield np.sum([material.weights.read(name).astype(np.float64) for name in tensor.sources], axis=0)


def _add_folded(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The same before attention, whose output bias takes in the value bias."""
    norm_bias, output_bias, output_weight, value_bias = (
        material.weights.read(name).astype(np.float64) for name in tensor.sources
    )
    yield norm_bias + output_bias + output_weight @ value_bias


def _divide(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A norm's weight or bias over the factors of the activation that it gives."""
    name, place = tensor.sources
    yield material.weights.read(name) / material.factors(place)


def _quantize(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A product's weight in int8, [in, out], times the factors of the activation that it reads."""
    name, place = tensor.sources
    weight = _multiplied(name, place, material)
    yield np.rint(weight / _steps(weight, 0))


def _quantize_scale(tensor: Tensor, material: Material) -> Iterator[Array]:
    """What a column of the int8 product is multiplied by, over the factors of the activation that it gives, if any.

    Activations come as LEVELS steps of the token's scale, which the graph multiplies in.
    """
    name, place, *given = tensor.sources
    scale = _steps(_multiplied(name, place, material), 0)[0] / LEVELS
    yield scale / material.factors(given[0]) if given else scale


def _quantize_inner(tensor: Tensor, material: Material) -> Iterator[Array]:
    """`quantize` without what stays in float32."""
    weight = _inner(tensor, material)
    yield np.rint(weight / _steps(weight, 0))


def _quantize_inner_scale(tensor: Tensor, material: Material) -> Iterator[Array]:
    """`quantize_scale` without what stays in float32."""
    yield _steps(_inner(tensor, material), 0)[0] / LEVELS / _given_factors(tensor, material)


def _outlier_mask(tensor: Tensor, material: Material) -> Iterator[Array]:
    """Zero for the channels of an activation that stay in float32, one for the others."""
    mask = np.ones(tensor.shape, np.float32)
    mask[material.outliers(tensor.sources[0])] = 0
    yield mask


def _outlier_select(tensor: Tensor, material: Material) -> Iterator[Array]:
    """[K, C]: picks the channels of an activation that stay in float32. With a weight and a norm, beside these [K, 2 C] the columns
    of the product that the norm makes large."""
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
    """[C, N]: the rows of a product's weight that its outlying channels meet. Where a norm follows, those columns that
    `outlier_select` computed are empty in them, and rows below [2 C, N] put these in their places."""
    name, place, *given = tensor.sources
    rows = _multiplied(name, place, material)[material.outliers(place)] / _given_factors(tensor, material)
    if columns := _fine_columns(given, material):
        rows[:, columns] = 0
        rows = np.concatenate([rows, np.eye(rows.shape[1])[columns]])
    yield rows


def _inner(tensor: Tensor, material: Material) -> NDArray[np.float64]:
    """A product's weight [in, out] times factors, with zeros where `outlier_rows` and `outlier_select` take over."""
    name, place, *given = tensor.sources
    weight = _multiplied(name, place, material)
    weight[material.outliers(place)] = 0
    weight[:, _fine_columns(given, material)] = 0
    return weight


def _given_factors(tensor: Tensor, material: Material) -> NDArray[np.float64] | float:
    """Factors of the activation that a product gives; norms are given sums as they are."""
    given = [place for place in tensor.sources[2:] if not _is_norm(place)]
    return material.factors(given[0]) if given else 1.0


def _fine_columns(given: Iterable[str], material: Material) -> list[int]:
    return [column for place in given if _is_norm(place) for column in material.outliers(place).tolist()]


def _is_norm(place: str) -> bool:
    return place.endswith("_norm")


def _quantize_table(tensor: Tensor, material: Material) -> Iterator[Array]:
    """A table in int8: columns over their factors, then each row in steps of its own."""
    for rows in _even_rows(tensor.sources[0], material):
        yield np.rint(rows / _steps(rows, 1))


def _quantize_table_rows(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The step of each row."""
    for rows in _even_rows(tensor.sources[0], material):
        yield _steps(rows, 1)


def _quantize_table_columns(tensor: Tensor, material: Material) -> Iterator[Array]:
    """The factor of each column."""
    yield material.column_factors(tensor.sources[0])


def _even_rows(name: str, material: Material) -> Iterator[NDArray[np.float32]]:
    divisors = material.column_factors(name).astype(np.float32)
    for rows in material.weights.read_rows(name, CHUNK_ROWS):
        yield rows.astype(np.float32) / divisors


def _multiplied(name: str, place: str, material: Material) -> NDArray[np.float64]:
    return material.weights.read(name).T * material.factors(place)[:, None]


def _steps(values: Array, axis: int) -> Array:
    """The step with which the largest of each row or column is LEVELS; 1 where all are zero."""
    largest = np.abs(values).max(axis, keepdims=True)
    return np.where(largest > 0, largest, LEVELS) / LEVELS


def _rope_cos(tensor: Tensor, material: Material) -> Iterator[Array]:
    yield material.rope.tables(tensor.shape[0])[0]


def _rope_sin(tensor: Tensor, material: Material) -> Iterator[Array]:
    yield material.rope.tables(tensor.shape[0])[1]


TRANSFORMS: dict[str, Callable[[Tensor, Material], Iterator[Array]]] = {
    "copy": _copy,
    "transpose": _transpose,
    "transpose_beside": _transpose_beside,
    "zeros": _zeros,
    "first_row_or_zeros": _first_row_or_zeros,
    "transpose_or_zeros": _transpose_or_zeros,
    "fold_value_bias": _fold_value_bias,
    "add": _add,
    "add_folded": _add_folded,
    "divide": _divide,
    "quantize": _quantize,
    "quantize_scale": _quantize_scale,
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
