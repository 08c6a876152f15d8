"""Chooses the smoothing factors and the outlier channels of int8 matrix products. Pure.

In a product x W, all channels of a token's activation x are rounded with one scale. One channel with thirty
times the values of the others leaves those a thirtieth of the int8 steps. Exactly computed, the product does
not change if channel c of x is divided by a factor f_c and row c of W is multiplied by it. With

    f_c = sqrt(max |x_c| / max |W_c|)

the channels of x and the rows of W become equally uneven, which is SmoothQuant (Xiao et al. 2023,
https://arxiv.org/abs/2211.10438, eq. 4 with alpha = 0.5). max |x_c| is taken from the oracle's activations on
the self-check texts. The division costs nothing at run time: it is folded into what computes x, a norm's
weight and bias or the column scales of the product before.

Activations have names, which layouts use as sources: `layers.N.attention`, `.mix`, `.mlp` and `.product`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]

READERS = {
    "attention": ("query", "key", "value"),
    "mix": ("output",),
    "mlp": ("gate", "up"),
    "product": ("down",),
}
"""{activation that is rounded in every layer: linear layers that read it}."""

OUTLIERS = 16
"""The number of channels of an activation that the graph for outlying channels keeps in float32."""

OUTLYING = 8.0
"""A channel is an outlier if its largest value is more than this many times that of the median channel."""

STEPS = 4
"""Factors are rounded to powers of 2^(1/STEPS). BLAS libraries differ in the last bits, and a build should
write the same bytes with all of them."""


def factors(
    place: str, largest: Mapping[str, Float], read: Callable[[str], NDArray[np.float32]]
) -> NDArray[np.float64]:
    """The factors by which the K channels of an activation are divided, float64 [K].

    Args:
        place: the activation, such as `layers.0.mlp`; the last word is a key of READERS.
        largest: {linear layer: largest magnitude of each of its input channels, [K]}.
        read: from the name of a weight to its values, [N, K].
    """
    layer, _, activation = place.rpartition(".")
    readers = [f"{layer}.{name}" for name in READERS[activation]]
    seen = largest[readers[0]].astype(np.float64)
    weights = np.max([np.abs(read(f"{name}.weight")).max(0) for name in readers], axis=0).astype(np.float64)
    # A channel that is always zero, or whose weights are, needs no factor.
    usable = (seen > 0) & (weights > 0)
    return _on_the_grid(np.sqrt(np.divide(seen, weights, out=np.ones_like(seen), where=usable)), usable)


def outliers(
    place: str, largest: Mapping[str, Float], factor: Callable[[str], NDArray[np.float64]]
) -> NDArray[np.int64]:
    """The indices of the OUTLIERS largest channels, ascending, int64 [OUTLIERS].

    Args:
        place: an activation, whose channels are compared after the division by their factors, or a norm,
            whose output channels are compared.
        largest: {linear layer: largest magnitude of each input channel, or norm: of each output channel}.
        factor: from an activation to its `factors`.
    """
    layer, _, activation = place.rpartition(".")
    seen = (
        largest[f"{layer}.{READERS[activation][0]}"] / factor(place)
        if activation in READERS
        else largest[place]
    )
    # Rounded, as factors are, so that the order of almost equal channels does not depend on the BLAS library.
    steps = np.round(np.log2(np.maximum(seen, np.finfo(np.float32).tiny)) * STEPS)
    return np.sort(np.argsort(-steps, kind="stable")[:OUTLIERS])


def has_outliers(largest: Mapping[str, Float]) -> bool:
    """Whether a norm's output, or attention's, has channels far larger than the others; see OUTLYING."""
    seen = [values for name, values in largest.items() if name.endswith(("norm", ".output"))]
    return any(float(values.max()) > OUTLYING * float(np.median(values)) for values in seen)


def column_factors(pieces: Iterable[Float]) -> NDArray[np.float64]:
    """The factors by which the embedding table's columns are divided before rounding, float64 [H].

    Args:
        pieces: the table, [V, H], in pieces of some rows.
    """
    largest = np.max([np.abs(piece).max(0) for piece in pieces], axis=0).astype(np.float64)
    return _on_the_grid(largest, largest > 0)


def _on_the_grid(values: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values relative to their median, rounded to powers of 2^(1/STEPS); 1 where a value is not usable."""
    if not usable.any():
        return np.ones_like(values)
    steps = np.log2(values, out=np.zeros_like(values), where=usable)
    steps -= np.median(steps[usable])
    return np.where(usable, np.exp2(np.round(steps * STEPS) / STEPS), 1.0)
