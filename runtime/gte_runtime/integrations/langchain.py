"""Embeddings for LangChain: dense vectors for every store, sparse ones for `langchain_qdrant`.

    from gte_runtime.integrations.langchain import GteEmbeddings, GteSparseEmbeddings

Needs langchain-core.
"""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from ..sparse import SparseVector
from .texts import DOCUMENT, QUERY, Model, encoded, opened


class GteEmbeddings(Embeddings):  # type: ignore[misc]
    """Dense vectors. The asynchronous methods run these in LangChain's thread pool."""

    def __init__(self, model: Model = "gte-mini", *, dim: int | None = None, **options: Any) -> None:
        """Open a model, or take an open one. `dim` cuts vectors; `options` are those of `Embedder.open`."""
        self.gte = opened(model, options)
        self.dim = dim

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._dense(texts, DOCUMENT)

    def embed_query(self, text: str) -> list[float]:
        return self._dense([text], QUERY)[0]

    def _dense(self, texts: list[str], prompts: tuple[str, ...]) -> list[list[float]]:
        dense = encoded(self.gte, texts, prompts, sparse=False, dim=self.dim).dense
        assert dense is not None
        vectors: list[list[float]] = dense.tolist()
        return vectors


class GteSparseEmbeddings:
    """Sparse vectors in the shape of `langchain_qdrant.SparseEmbeddings`, which reads only `indices` and
    `values` of what it gets. It has no base class, so that it needs no Qdrant."""

    def __init__(self, model: Model = "gte-mini", *, top: int | None = None, **options: Any) -> None:
        """Open a model, or take an open one. `top` keeps that many of the largest weights of a text."""
        self.gte = opened(model, options)
        self.top = top

    def embed_documents(self, texts: list[str]) -> list[Any]:
        return [self._as_theirs(vector) for vector in self._sparse(texts, DOCUMENT)]

    def embed_query(self, text: str) -> Any:
        return self._as_theirs(self._sparse([text], QUERY)[0])

    async def aembed_documents(self, texts: list[str]) -> list[Any]:
        from langchain_core.runnables import run_in_executor

        vectors: list[Any] = await run_in_executor(None, self.embed_documents, texts)
        return vectors

    async def aembed_query(self, text: str) -> Any:
        from langchain_core.runnables import run_in_executor

        return await run_in_executor(None, self.embed_query, text)

    def _sparse(self, texts: list[str], prompts: tuple[str, ...]) -> list[SparseVector]:
        sparse = encoded(self.gte, texts, prompts, dense=False, sparse=True).sparse
        return [vector if self.top is None else vector.top(self.top) for vector in sparse or ()]

    @staticmethod
    def _as_theirs(vector: SparseVector) -> Any:
        """Their class where it is installed, because Qdrant's client wants lists of Python numbers."""
        try:
            from langchain_qdrant.sparse_embeddings import SparseVector as Theirs
        except ImportError:
            return vector
        return Theirs(**vector.as_object())
