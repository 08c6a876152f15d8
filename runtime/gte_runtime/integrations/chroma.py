"""An embedding function for Chroma. It keeps its model's name in a collection's configuration.

    from gte_runtime.integrations.chroma import GteEmbeddingFunction

Needs chromadb.
"""

from __future__ import annotations

from typing import Any

from chromadb.api.types import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from ..embedder import Embedder
from .texts import DOCUMENT, QUERY, encoded


@register_embedding_function
class GteEmbeddingFunction(EmbeddingFunction[Documents]):  # type: ignore[misc]
    """Dense vectors."""

    def __init__(self, model: str = "gte-mini", dim: int | None = None, **options: Any) -> None:
        """Open a model. `dim` cuts vectors; `options` are those of `Embedder.open`."""
        self._config = {"model": model, "dim": dim, **options}
        self._dim = dim
        self._gte = Embedder.open(model, **options)

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma's name
        return self._vectors(input, DOCUMENT)

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002
        return self._vectors(input, QUERY)

    def _vectors(self, texts: Documents, prompts: tuple[str, ...]) -> Embeddings:
        dense = encoded(self._gte, texts, prompts, sparse=False, dim=self._dim).dense
        assert dense is not None
        return list(dense)

    @staticmethod
    def name() -> str:
        return "gte-runtime"

    def default_space(self) -> Any:
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        return dict(self._config)

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> EmbeddingFunction[Documents]:
        return GteEmbeddingFunction(**config)
