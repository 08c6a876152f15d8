"""The authors' helper script (`scripts/gte_embedding.py` of the model's repository), with numpy arrays for tensors.

What differs: `return_dense=False` works (the original fails on an empty list), and texts are run
sorted by length, which does not change their vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import scoring
from ..embedder import Embedder
from .device import provider_of


class GTEEmbedding:
    """The original helper's constructor and methods, on a bundle."""

    def __init__(
        self,
        model_name: str | Path,
        normalized: bool = True,
        use_fp16: bool = True,
        device: str | None = None,
    ) -> None:
        """Open a bundle.

        Args:
            model_name: a bundle directory or the name of a shipped model.
            normalized: L2-normalise dense vectors.
            use_fp16: accepted for the original's sake; the precision is the bundle's.
            device: None or "cpu", or "cuda". Unlike the original, None never looks for another device.
        """
        self.normalized = normalized
        self.embedder = Embedder.open(model_name, provider=provider_of(device))

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
        steps = self.embedder.steps
        dim = steps.check_dim(dimension)
        if return_sparse:
            steps.check_sparse(True)
        tokens = steps.tokens([] if texts is None else texts, max_length)
        states = steps.run(tokens)
        result: dict[str, Any] = {}
        if return_dense:
            result["dense_embeddings"] = (
                scoring.cut_and_normalise(states.cls, dim) if self.normalized else states.cls[:, :dim]
            )
        if return_sparse:
            result["token_weights"] = steps.weights_by_string(tokens, states)
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

    def close(self) -> None:
        """Stop what runs and give memory back."""
        self.embedder.close()

    def __enter__(self) -> GTEEmbedding:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


GTEEmbeddidng = GTEEmbedding
"""The class's name in the original script, with its spelling."""
