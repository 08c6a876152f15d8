"""How an int8 product shares the load between activations and weights. Pure.

A product x W is the same when channel c of x is divided by some f_c and row c of W multiplied by it.
Rounded to int8, it is not: one channel with thirty times the values of the others leaves them a
thirtieth of the steps, since a token's channels share one scale. With

    f_c = sqrt(largest |x_c| / largest |W_c|)

both sides are as uneven as the other (SmoothQuant, Xiao et al. 2023, https://arxiv.org/abs/2211.10438,
eq. 4 with alpha 0.5). What is large is seen by the oracle on the self-check texts; the division costs
nothing at run time, because it is folded into whatever produces x: a norm's weight and bias, or the
column scales of the product before.
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
"""The activations that are rounded in every layer, and the products that read them."""

OUTLIERS = 16
"""Channels of an activation that the second form of int8 keeps in float32."""

OUTLYING = 8.0
"""A channel is an outlier when its largest value is so many times the median channel's."""

STEPS = 4
"""Factors are rounded to this many steps per doubling. BLAS libraries differ in the last bit, and a build
should give the same bytes with all of them."""


def factors(
    place: str, largest: Mapping[str, Float], read: Callable[[str], NDArray[np.float32]]
) -> NDArray[np.float64]:
    """What the channels of an activation are divided by, [K].

    Args:
        place: such as `layers.0.mlp`; the last word is a key of READERS.
        largest: {linear layer: largest magnitude of each input channel, [K]}.
        read: weights by name, [N, K].
    """
    layer, _, activation = place.rpartition(".")
    readers = [f"{layer}.{name}" for name in READERS[activation]]
    seen = largest[readers[0]].astype(np.float64)
    weights = np.max([np.abs(read(f"{name}.weight")).max(0) for name in readers], axis=0).astype(np.float64)
    usable = (seen > 0) & (
        weights > 0
    )  # a channel that is always zero, or that nothing reads, needs no factor
    return _on_the_grid(np.sqrt(np.divide(seen, weights, out=np.ones_like(seen), where=usable)), usable)


def outliers(
    place: str, largest: Mapping[str, Float], factor: Callable[[str], NDArray[np.float64]]
) -> NDArray[np.int64]:
    """The OUTLIERS largest channels, ascending: of an activation after its factors, or of what a norm gives.

    Args:
        place: of an activation, or the name of a norm.
        largest: {linear layer or norm: largest magnitude of each channel that goes into it or comes out of it}.
        factor: `factors` of an activation.
    """
    layer, _, activation = place.rpartition(".")
    seen = (
        largest[f"{layer}.{READERS[activation][0]}"] / factor(place)
        if activation in READERS
        else largest[place]
    )
    # Rounded as factors are: the order of nearly equal channels must not hang on a BLAS library's last bit.
    steps = np.round(np.log2(np.maximum(seen, np.finfo(np.float32).tiny)) * STEPS)
    return np.sort(np.argsort(-steps, kind="stable")[:OUTLIERS])


def has_outliers(largest: Mapping[str, Float]) -> bool:
    """Whether a norm gives, or attention mixes, channels far larger than the others."""
    seen = [values for name, values in largest.items() if name.endswith(("norm", ".output"))]
    return any(float(values.max()) > OUTLYING * float(np.median(values)) for values in seen)


def column_factors(pieces: Iterable[Float]) -> NDArray[np.float64]:
    """What the columns of a table are divided by before its rows are rounded, [H]: their largest values, made even."""
    largest = np.max([np.abs(piece).max(0) for piece in pieces], axis=0).astype(np.float64)
    return _on_the_grid(largest, largest > 0)


def _on_the_grid(values: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Relative to their median, in steps; 1 where a value is not usable."""
    if not usable.any():
        return np.ones_like(values)
    steps = np.log2(values, out=np.zeros_like(values), where=usable)
    steps -= np.median(steps[usable])
    return np.where(usable, np.exp2(np.round(steps * STEPS) / STEPS), 1.0)
