"""Components for Haystack: dense and sparse vectors of queries and documents.

    from gte_runtime.integrations.haystack import GteDocumentEmbedder, GteTextEmbedder

Needs haystack-ai.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.dataclasses import SparseEmbedding

from ..embedder import Embedder
from ..sparse import SparseVector
from .texts import DOCUMENT, QUERY, encoded


class _Component:
    """A component that opens its model in `warm_up`, or at its first run."""

    def __init__(
        self, model: str = "gte-mini", dim: int | None = None, top: int | None = None, **options: Any
    ) -> None:
        """Name a model.

        Args:
            model: a bundle directory, or the name of a shipped or pulled model.
            dim: cut dense vectors to this many values.
            top: keep that many of the largest weights of a sparse vector.
            options: of `Embedder.open`.
        """
        self.model, self.dim, self.top, self.options = model, dim, top, options
        self._gte: Embedder | None = None

    def warm_up(self) -> None:
        """Open the model."""
        if self._gte is None:
            self._gte = Embedder.open(self.model, **self.options)

    def _opened(self) -> Embedder:
        self.warm_up()
        assert self._gte is not None
        return self._gte

    def _dense(self, texts: list[str], prompts: tuple[str, ...]) -> list[list[float]]:
        dense = encoded(self._opened(), texts, prompts, sparse=False, dim=self.dim).dense
        assert dense is not None
        vectors: list[list[float]] = dense.tolist()
        return vectors

    def _sparse(self, texts: list[str], prompts: tuple[str, ...]) -> list[SparseEmbedding]:
        def theirs(vector: SparseVector) -> SparseEmbedding:
            return SparseEmbedding(**(vector if self.top is None else vector.top(self.top)).as_object())

        sparse = encoded(self._opened(), texts, prompts, dense=False, sparse=True).sparse
        return [theirs(vector) for vector in sparse or ()]

    def to_dict(self) -> dict[str, Any]:
        written: dict[str, Any] = default_to_dict(
            self, model=self.model, dim=self.dim, top=self.top, **self.options
        )
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        return default_from_dict(cls, data)


@component
class GteTextEmbedder(_Component):
    """The dense vector of a query."""

    @component.output_types(embedding=list[float])  # type: ignore[untyped-decorator]
    def run(self, text: str) -> dict[str, Any]:
        return {"embedding": self._dense([text], QUERY)[0]}


@component
class GteSparseTextEmbedder(_Component):
    """The sparse vector of a query."""

    @component.output_types(sparse_embedding=SparseEmbedding)  # type: ignore[untyped-decorator]
    def run(self, text: str) -> dict[str, Any]:
        return {"sparse_embedding": self._sparse([text], QUERY)[0]}


@component
class GteDocumentEmbedder(_Component):
    """Documents with their dense vectors. A document without content has that of the empty text."""

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, documents: list[Document]) -> dict[str, Any]:
        vectors = self._dense([document.content or "" for document in documents], DOCUMENT)
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}


@component
class GteSparseDocumentEmbedder(_Component):
    """Documents with their sparse vectors."""

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, documents: list[Document]) -> dict[str, Any]:
        vectors = self._sparse([document.content or "" for document in documents], DOCUMENT)
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [replace(document, sparse_embedding=vector) for document, vector in pairs]}
