"""Dense and sparse vectors in the shape of pymilvus' embedding functions.

    from gte_runtime.integrations.milvus import GteEmbeddingFunction

It needs no package of Milvus: pymilvus takes arrays and dictionaries as they are.
"""

from __future__ import annotations

from typing import Any

from ..arrays import Float32
from .texts import DOCUMENT, QUERY, Model, encoded, opened


class GteEmbeddingFunction:
    """`encode_documents` and `encode_queries` give {"dense": [array], "sparse": [{id: weight}]}, as
    `BGEM3EmbeddingFunction` of pymilvus does, with dictionaries in place of SciPy's rows."""

    def __init__(
        self, model: Model = "gte-mini", *, dim: int | None = None, top: int | None = None, **options: Any
    ) -> None:
        """Open a model, or take an open one.

        Args:
            model: a bundle directory, a name, or an open `Embedder`.
            dim: cut dense vectors to this many values.
            top: keep that many of the largest weights of a sparse vector.
            options: of `Embedder.open`.
        """
        self.gte = opened(model, options)
        self._dim, self._top = dim, top

    @property
    def dim(self) -> dict[str, int]:
        """{"dense": values of a dense vector, "sparse": rows of the embedding table}."""
        return {
            "dense": self._dim or self.gte.manifest.truncate_dim or self.gte.dim,
            "sparse": self.gte.manifest.architecture.vocab_size,
        }

    def encode_documents(self, documents: list[str]) -> dict[str, list[Any]]:
        return self._encode(documents, DOCUMENT)

    def encode_queries(self, queries: list[str]) -> dict[str, list[Any]]:
        return self._encode(queries, QUERY)

    def __call__(self, texts: list[str]) -> dict[str, list[Any]]:
        return self.encode_documents(texts)

    def _encode(self, texts: list[str], prompts: tuple[str, ...]) -> dict[str, list[Any]]:
        out = encoded(self.gte, texts, prompts, dim=self._dim, sparse=self.gte.manifest.sparse)
        assert out.dense is not None
        dense: list[Float32] = list(out.dense)
        kept = (vector if self._top is None else vector.top(self._top) for vector in out.sparse or ())
        return {"dense": dense, "sparse": [vector.as_dict() for vector in kept]}
