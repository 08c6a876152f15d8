"""Call shapes that people already have in their code.

`GTEEmbedding` is the authors' helper script (`scripts/gte_embedding.py` of the model's repository)
with its import changed and numpy arrays for tensors:

    from gte_runtime.compat import GTEEmbedding

What differs: `return_dense=False` works (the original fails on an empty list), and texts are run
sorted by length, which does not change their vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import scoring
from .embedder import Embedder
from .errors import ConfigError

DEVICES = {None: "cpu", "cpu": "cpu", "cuda": "cuda"}


class GTEEmbedding:
    """The original helper's constructor and methods, on a bundle."""

    def __init__(self, model_name: str | Path, normalized: bool = True, use_fp16: bool = True, device: str | None = None) -> None:
        """Open a bundle.

        Args:
            model_name: a bundle directory or the name of a shipped model.
            normalized: L2-normalise dense vectors.
            use_fp16: accepted for the original's sake; the precision is the bundle's.
            device: None or "cpu", or "cuda". Unlike the original, None never looks for another device.
        """
        if device not in DEVICES:
            raise ConfigError(f"device is {device!r}; expected one of None, 'cpu', 'cuda'")
        self.normalized = normalized
        self.embedder = Embedder.open(model_name, provider=DEVICES[device])

    def encode(
        self,
        texts: str | Iterable[str] | None = None,
        dimension: int | None = None,
        max_length: int = 8192,
        batch_size: int = 16,
        return_dense: bool = True,
        return_sparse: bool = False,
    ) -> dict[str, Any]:
        """{"dense_embeddings": float32 [N, dimension], "token_weights": [{token: weight}]}: what was asked for.

        batch_size is accepted and not used: runs are planned by tokens.
        """
        given = [] if texts is None else texts if isinstance(texts, str) else list(texts)
        result: dict[str, Any] = {}
        if return_dense:
            result["dense_embeddings"] = self._dense(given, dimension, max_length)
        if return_sparse:
            result["token_weights"] = self.embedder.token_weights(given, max_length=max_length)
        return result

    def compute_scores(
        self,
        pairs: Iterable[tuple[str, str]],
        dimension: int | None = None,
        max_length: int = 1024,
        batch_size: int = 16,
        dense_weight: float = 1.0,
        sparse_weight: float = 0.1,
    ) -> list[float]:
        """Hybrid scores. Note max_length: 1024 here, as in the original, 8192 in `encode`."""
        scores = self.embedder.score(pairs, dense_weight, sparse_weight, dim=dimension, max_length=max_length)
        return [float(score) for score in scores]

    def _dense(self, texts: str | list[str], dimension: int | None, max_length: int) -> NDArray[np.float32]:
        states = self.embedder.states(texts, dim=dimension, max_length=max_length)
        return scoring.cut_and_normalise(states) if self.normalized else states


GTEEmbeddidng = GTEEmbedding
"""The class's name in the original script, with its spelling."""
