"""Outputs of upstream's modules for a tiny random checkpoint; its README tells how they were made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Golden:
    """The checkpoint, graphs of its architecture, and what upstream's code says of 13 texts."""

    checkpoint: Path
    graphs: Path
    texts: list[str]
    token_weights: list[dict[str, float]]
    pairs: list[tuple[str, str]]
    scores: dict[str, list[float]]
    arrays: dict[str, NDArray[Any]]

    def ids(self, text: int) -> NDArray[np.int64]:
        return self.arrays[f"ids_{text}"].astype(np.int64)

    def cls(self) -> NDArray[np.float32]:
        return np.stack([self.arrays[f"cls_{i}"] for i in range(len(self.texts))])

    def last(self, text: int) -> NDArray[np.float32]:
        """State of the last token, [H]."""
        return self.arrays[f"last_{text}"]

    def weights(self, text: int) -> NDArray[np.float32]:
        return self.arrays[f"weights_{text}"]


def read_golden() -> Golden:
    folder = DATA / "gte-tiny-random"
    raw = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    with np.load(folder / "expected.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    return Golden(
        checkpoint=folder,
        graphs=folder / "graphs",
        texts=raw["texts"],
        token_weights=raw["token_weights"],
        pairs=[(query, document) for query, document in raw["pairs"]],
        scores=raw["scores"],
        arrays=arrays,
    )
