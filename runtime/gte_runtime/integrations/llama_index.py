"""Embeddings for LlamaIndex, and sparse vectors for its Qdrant store.

    from gte_runtime.integrations.llama_index import GteEmbedding, sparse_functions

    documents, queries = sparse_functions("gte-mini")
    store = QdrantVectorStore(..., enable_hybrid=True, sparse_doc_fn=documents, sparse_query_fn=queries)

Needs llama-index-core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from .texts import DOCUMENT, QUERY, Model, encoded, opened

Sparse = Callable[[list[str]], tuple[list[list[int]], list[list[float]]]]


class GteEmbedding(BaseEmbedding):  # type: ignore[misc]
    """Dense vectors."""

    dim: int | None = None
    _gte: Any = PrivateAttr()

    def __init__(
        self,
        model: Model = "gte-mini",
        *,
        dim: int | None = None,
        embed_batch_size: int = 256,
        **options: Any,
    ) -> None:
        """Open a model, or take an open one. `dim` cuts vectors; `options` are those of `Embedder.open`."""
        gte = opened(model, options)
        super().__init__(model_name=str(gte.info["model"]), embed_batch_size=embed_batch_size, dim=dim)
        self._gte = gte

    @classmethod
    def class_name(cls) -> str:
        return "GteEmbedding"

    def _vectors(self, texts: list[str], prompts: tuple[str, ...]) -> list[list[float]]:
        dense = encoded(self._gte, texts, prompts, sparse=False, dim=self.dim).dense
        assert dense is not None
        vectors: list[list[float]] = dense.tolist()
        return vectors

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vectors([query], QUERY)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vectors([text], DOCUMENT)[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._vectors(texts, DOCUMENT)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


def sparse_functions(
    model: Model = "gte-mini", *, top: int | None = None, **options: Any
) -> tuple[Sparse, Sparse]:
    """`sparse_doc_fn` and `sparse_query_fn` of LlamaIndex's Qdrant store: texts to (indices, values). `top`
    keeps that many of the largest weights of a text."""
    gte = opened(model, options)

    def function(prompts: tuple[str, ...]) -> Sparse:
        def vectors(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
            sparse = encoded(gte, texts, prompts, dense=False, sparse=True).sparse or ()
            kept = [vector if top is None else vector.top(top) for vector in sparse]
            return [each.indices.tolist() for each in kept], [each.values.tolist() for each in kept]

        return vectors

    return function(DOCUMENT), function(QUERY)
