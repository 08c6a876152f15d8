"""Numbers that others have published for real checkpoints, for whoever has the weights.

They cannot be tested where this project is built, since the weights are not there; `gte verify`
compares them on a machine that has them. Checkpoints are known by the hash of model.safetensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .embedder import Embedder

CARD_TEXTS = ("what is the capital of China?", "how to implement quick sort in python?", "北京", "快排算法介绍")


@dataclass(frozen=True, slots=True)
class Published:
    """Cosines of text 0 with the others."""

    source: str
    texts: tuple[str, ...]
    cosines: tuple[float, ...]
    tolerance: float
    """For float32 arithmetic; a variant's own tolerance is used where it is larger."""


KNOWN = {
    # Alibaba-NLP/gte-multilingual-base at revision 9bbca17d, model.safetensors.
    "f5a35a10faa54da7717870af1517c9b41e9bd8e3880bc5a8e9363d4c3c63e9b0": Published(
        source="model card of gte-multilingual-base",
        texts=CARD_TEXTS,
        cosines=(0.3016996, 0.7503870, 0.3203084),
        tolerance=1e-5,
    ),
}


def known(source: str) -> Published | None:
    return KNOWN.get(source)


def compare(published: Published, gte: Embedder) -> Iterator[tuple[str, bool]]:
    """(a line to print, within tolerance) for every published value."""
    dense = gte.encode(published.texts, sparse=False).dense
    assert dense is not None
    found = dense[0].astype(np.float64) @ dense[1:].T.astype(np.float64)
    tolerance = max(published.tolerance, gte.tolerance)
    for n, (expected, value) in enumerate(zip(published.cosines, found.tolist(), strict=True), 1):
        difference = abs(value - expected)
        line = (
            f"cosine of texts 0 and {n}: {value:.7f}, {published.source} says {expected:.7f} "
            f"(difference {difference:.1e}, allowed {tolerance:.0e})"
        )
        yield line, difference <= tolerance
