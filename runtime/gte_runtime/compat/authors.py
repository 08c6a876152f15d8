"""The class of the authors' helper script (`scripts/gte_embedding.py` in the model's repository), with numpy
arrays instead of tensors.

What differs: `return_dense=False` works, where the original fails on an empty list; and texts run sorted by
length, which does not change their vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import scoring
from ..embedder import Embedder
from ..tokenization import Form
from .device import provider_of


class GTEEmbedding:
    """The original helper's constructor and methods, on a bundle."""

    def __init__(
        self,
        model_name: str | Path,
        normalized: bool = True,
        use_fp16: bool = True,
        device: str | None = None,
        *,
        variant: str | None = None,
        threads: int | None = None,
        unicode: Form | None = None,
    ) -> None:
        """Open a bundle.

        Args:
            model_name: a bundle directory or the name of a shipped model.
            normalized: L2-normalise dense vectors.
            use_fp16: accepted, without effect; the precision is that of the bundle.
            device: None or "cpu", or "cuda". Unlike in the original, None is always the CPU.
            variant, threads, unicode: not in the original; as in `Embedder.open`.
        """
        self.normalized = normalized
        self.embedder = Embedder.open(
            model_name, provider=provider_of(device), variant=variant, threads=threads, unicode=unicode
        )

    def encode(
        self,
        texts: str | Iterable[str] | None = None,
        dimension: int | None = None,
        max_length: int = 8192,
        batch_size: int = 16,
        return_dense: bool = True,
        return_sparse: bool = False,
    ) -> dict[str, Any]:
        """{"dense_embeddings": float32 [N, dimension], "token_weights": [{token: weight}]}, as requested.

        `batch_size` has no effect: runs are planned by tokens.
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
        """Hybrid scores, N floats. As in the original, `max_length` is 1024 here and 8192 in `encode`."""
        scores = self.embedder.score(
            pairs, dense_weight, sparse_weight, dim=dimension, max_length=max_length, prompt_name=""
        )
        return [float(score) for score in scores]

    def close(self) -> None:
        """Stop all runs and release the memory."""
        self.embedder.close()

    def __repr__(self) -> str:
        return f"GTEEmbedding({self.embedder!r})"

    def __enter__(self) -> GTEEmbedding:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


GTEEmbeddidng = GTEEmbedding
"""The name of the class in the original script, spelling mistake included."""
