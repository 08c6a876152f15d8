"""Chooses the int8 products of a checkpoint that stay in float32, where int8 would cost too much accuracy.

Ordinary checkpoints need none. Where a build finds a vector too far from the oracle's, `rounding_errors` runs
the oracle once for each product with only that product rounded as the graph rounds it, and once with all of
them. The errors of single products add up like independent ones, by their squares, so the largest are taken
away until the rest is small enough. Then the build measures what was reached.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.tensors import Checkpoint
from ..format.architecture import Architecture
from ..format.layout import Layout, place
from ..proof.oracle import Forward, Product, exact
from ..proof.selfcheck import WEIGHT_SLACK
from .int8 import READERS
from .material import Material

Float = NDArray[np.floating[Any]]
Errors = Mapping[str, Float]
"""{product: distance to the oracle that its rounding alone causes, for each text, [N]}."""

TABLE = "embeddings.word"
"""The name under which the embedding table is among the products."""

PLACES = {part: activation for activation, parts in READERS.items() for part in parts}

LEVELS = 127

KEPT_FORMS = {
    "quantize": "multiply",
    "quantize_inner": "multiply_inner",
    "quantize_table": "copy",
    "quantize_table_rows": "ones",
    "quantize_table_columns": "ones",
}
"""{transform of a rounded tensor: of the same tensor where it stays in float}."""

MOST = 0.5
"""The largest part of the products that may stay in float32. With more, int8 has no use: at one half a run
takes about three quarters of the time of float32."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What rounding costs, by the oracle."""

    single: Errors
    together: float
    """The largest distance over all texts if everything is rounded."""

    def choose(self, allowed: float) -> tuple[str, ...]:
        """The fewest products whose float32 leaves at most `allowed`; the most sensitive first."""
        ordered = sorted(self.single, key=lambda name: (-float(self.single[name].max()), name))
        rest = np.sum([self.single[name] ** 2 for name in ordered], axis=0)
        kept = []
        for name in ordered:
            if float(rest.max()) <= allowed**2:
                break
            kept.append(name)
            rest = rest - self.single[name] ** 2
        return tuple(kept)


def rounding_errors(
    checkpoint: Checkpoint,
    texts: Sequence[NDArray[np.int64]],
    material: Material,
    *,
    vector: Callable[[Float], Float],
    outliers: bool,
) -> Simulation:
    """Simulate the rounding of each product by itself, and of all together.

    Weights are read once for each layer; all simulated states go through it before the next one.

    Args:
        checkpoint: the weights.
        texts: token ids of the texts, [n] each.
        material: factors and outlying channels, as the build uses them.
        vector: from the states of a text's tokens, [n, H], to its vector; unused for a reranker.
        outliers: simulate the form for outlying channels.
    """
    numbers = checkpoint.config.architecture
    names = [TABLE, *(f"layers.{n}.{part}" for n in range(numbers.layers) for part in PLACES)]
    round_product = partial(_rounded, material=material, outliers=outliers)
    states: list[dict[str, Float]] = []
    for ids in texts:
        forward = Forward(checkpoint, np.float32)
        rounded = forward.embed(ids, _rounded_rows(checkpoint, ids, material))
        states.append({"": forward.embed(ids), TABLE: rounded, "all": rounded})
    for n in range(numbers.layers):
        read = cache(lambda name: checkpoint.read(name))
        for found in states:

            def through(h: Float, product: Product, n: int = n, read: Any = read) -> Float:
                return Forward(checkpoint, np.float32, product=product, read=read).layer(n, h)

            new = {f"layers.{n}.{part}": through(found[""], _only(f"layers.{n}.{part}", round_product))
                   for part in PLACES}  # fmt: skip
            all_rounded = through(found["all"], round_product)
            found.update({name: through(h, exact) for name, h in found.items() if name != "all"})
            found.update({**new, "all": all_rounded})
    single = {
        name: np.array([_apart(checkpoint, vector, found[""], found[name]) for found in states])
        for name in names
    }
    return Simulation(single, max(_apart(checkpoint, vector, found[""], found["all"]) for found in states))


def share_of(kept: Collection[str], a: Architecture) -> float:
    """The part of all multiplications that these products make, from 0 to 1; the table makes none."""
    wide = {"gate", "up", "down"}
    cost = {part: a.intermediate_size if part in wide else a.hidden_size for part in PLACES}
    chosen = sum(cost[name.rpartition(".")[2]] for name in kept if name != TABLE)
    return chosen / (sum(cost.values()) * a.layers)


def keep_in_float(layout: Layout, kept: Collection[str], table: str) -> Layout:
    """A layout in which the weights of some products, or the table, are not rounded.

    Args:
        layout: of a weight file of `cpu-int8`.
        kept: products as `Simulation.choose` names them.
        table: the type of the checkpoint's embedding table.
    """
    sources = {tensor.name: tensor.sources for tensor in layout.tensors}
    tensors = []
    for tensor in layout.tensors:
        product, _, kind = tensor.name.rpartition(".")
        if not tensor.transform.startswith("quantize"):
            pass
        elif TABLE in kept and tensor.transform.startswith("quantize_table"):
            dtype = table if tensor.name == TABLE else tensor.dtype
            tensor = replace(tensor, transform=KEPT_FORMS[tensor.transform], dtype=dtype)
        elif product in kept and kind == "scale":
            continue
        elif product in kept and kind == "weight":
            tensor = replace(
                tensor,
                transform=KEPT_FORMS[tensor.transform],
                dtype="float32",
                # Those of the scale also name the activation by whose factors the result is divided.
                sources=sources[f"{product}.scale"],
            )
        tensors.append(tensor)
    return place(
        layout.file,
        (
            {
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "transform": tensor.transform,
                "sources": tensor.sources,
            }
            for tensor in tensors
        ),
    )


def _only(name: str, product: Product) -> Product:
    """One product rounded, the others exact."""
    return lambda at, x, weight: (product if at == name else exact)(at, x, weight)


def _rounded(name: str, x: Float, weight: Float, *, material: Material, outliers: bool) -> Float:
    """x [n, K] times weight^T [K, N] as `cpu-int8` computes it: both divided by their factors and rounded."""
    layer, _, part = name.rpartition(".")
    if part not in PLACES:
        return exact(name, x, weight)
    place = f"{layer}.{PLACES[part]}"
    factor = material.factors(place).astype(x.dtype)
    x, weight = x / factor, weight * factor
    rest: Float = np.zeros((), x.dtype)
    if outliers:
        inner_x, inner_weight = x.copy(), weight.copy()
        inner_x[:, material.outliers(place)] = 0
        inner_weight[:, material.outliers(place)] = 0
        if part in ("output", "down"):
            norm = {"output": "attention_norm", "down": "mlp_norm"}[part]
            inner_weight[material.outliers(f"{layer}.{norm}")] = 0
        rest = x @ weight.T - inner_x @ inner_weight.T
        x, weight = inner_x, inner_weight
    rows, columns = _steps(x), _steps(weight)
    found: Float = (np.rint(x / rows) @ np.rint(weight / columns).T) * rows * columns.T + rest
    return found


def _steps(values: Float) -> Float:
    """[n, 1]: the step of each row."""
    largest = np.abs(values).max(1, keepdims=True)
    steps: Float = np.where(largest > 0, largest, LEVELS) / LEVELS
    return steps


def _rounded_rows(checkpoint: Checkpoint, ids: NDArray[np.int64], material: Material) -> Float:
    """The rows of the embedding table as the int8 table gives them, [n, H]."""
    divisors = material.column_factors(TABLE).astype(np.float32)
    rows = checkpoint.rows(TABLE, ids) / divisors
    steps = _steps(rows)
    rounded: Float = np.rint(rows / steps) * steps * divisors
    return rounded


def _apart(checkpoint: Checkpoint, vector: Callable[[Float], Float], exactly: Float, found: Float) -> float:
    """The distance of two results of one text, in the unit of a variant's tolerance; see `selfcheck`."""
    results = [Forward(checkpoint, np.float32).heads(h) for h in (exactly, found)]
    (_, weights, _, logit), (_, other_weights, _, other_logit) = results
    if checkpoint.reranker:
        return abs(logit - other_logit) / max(1.0, abs(logit))
    vectors = [x / np.linalg.norm(x) for x in map(vector, (exactly, found))]
    scale = max(1.0, float(np.abs(weights).max()))
    return max(
        float(np.linalg.norm(vectors[0] - vectors[1])),
        float(np.abs(weights - other_weights).max()) / scale / WEIGHT_SLACK,
    )
