"""Models for evaluations with mteb: dense, sparse and hybrid retrieval, and reranking.

    import mteb
    from gte_runtime.integrations.mteb import GteEncoder

    mteb.evaluate(GteEncoder("gte-multilingual-base"), mteb.get_tasks(tasks=["STS12"]))

mteb depends on PyTorch, so install it in an environment of its own: pip install mteb 'gte-runtime[cpu]'. This
module needs it only to describe a model; arrays are numpy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Float32
from ..embedder import Embedder
from ..reranker import Reranker
from ..results import Embeddings
from ..scoring import each_with_each, pairwise
from ..version import __version__
from .texts import of_queries

QUERY = "query"
"""mteb's name for queries, and the name of the prompt that models have for them."""


class GteEncoder:
    """Dense vectors: mteb's EncoderProtocol, for every kind of task."""

    def __init__(
        self,
        model_name: str = "gte-mini",
        revision: str | None = None,
        *,
        device: str | None = None,
        dim: int | None = None,
        **options: Any,
    ) -> None:
        """Open a bundle.

        Args:
            model_name: a bundle directory, or the name of a shipped or pulled model.
            revision: recorded in the results, without other effect.
            device: None or "cpu", or "cuda".
            dim: cut vectors to this many values.
            options: of `Embedder.open`.
        """
        self.gte = Embedder.open(model_name, provider=device or "cpu", **options)
        self.dim = dim
        self._revision = revision

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **_: Any) -> Float32:
        """Vectors of the texts of all batches, [N, dim]. All texts are planned together."""
        # As sentence-transformers gives them: of length 1 only where the checkpoint has a Normalize module.
        dense = _encode(
            self.gte,
            _texts(inputs),
            _is_query(prompt_type),
            dense=True,
            sparse=False,
            dim=self.dim,
            normalize=self.gte.manifest.normalize,
        ).dense
        assert dense is not None
        return dense

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Float32:
        """The checkpoint's similarity, mostly the cosine, of every row with every row, [N, M]."""
        return each_with_each(self.gte.manifest.similarity, _rows(embeddings1), _rows(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Float32:
        """The same of row i with row i, [N]."""
        return pairwise(self.gte.manifest.similarity, _rows(embeddings1), _rows(embeddings2))

    def __repr__(self) -> str:
        return f"GteEncoder({self.gte!r})"

    @cached_property
    def mteb_model_meta(self) -> Any:
        return _meta(
            self.gte, self._revision, "dense", self.dim or self.gte.manifest.truncate_dim or self.gte.dim
        )


class GteSearch:
    """Sparse or hybrid retrieval: mteb's SearchProtocol.

    score = dense_weight x cosine + sparse_weight x sum of products over shared tokens, computed exactly for
    all documents. (The paper adds the scores of two result lists instead; there a document that is in one
    list only has 0 for the other.)
    """

    def __init__(
        self,
        model_name: str = "gte-mini",
        revision: str | None = None,
        *,
        device: str | None = None,
        dense_weight: float = 1.0,
        sparse_weight: float = 0.01,
        dim: int | None = None,
        **options: Any,
    ) -> None:
        """Open a bundle. Arguments are those of `GteEncoder`, and two weights: with dense_weight=0 retrieval
        is sparse, with sparse_weight=0 dense. The paper tries sparse weights of 0.001 to 0.01 with a dense
        one of 1."""
        self.gte = Embedder.open(model_name, provider=device or "cpu", **options)
        self.dense_weight, self.sparse_weight, self.dim = dense_weight, sparse_weight, dim
        self._revision = revision
        self._ids: list[str] = []
        self._dense: Float32 | None = None
        self._postings: dict[int, tuple[NDArray[np.int64], Float32]] = {}

    def index(self, corpus: Iterable[Mapping[str, Any]], **_: Any) -> None:
        rows = list(corpus)
        self._ids = [str(row["id"]) for row in rows]
        out = self._run([_document(row) for row in rows], query=False)
        self._dense, self._postings = out.dense, {}
        if out.sparse is not None:
            csr = out.sparse.to_csr()
            documents = np.repeat(np.arange(len(rows)), np.diff(csr.indptr))
            order = np.argsort(csr.indices, kind="stable")
            tokens, starts = np.unique(csr.indices[order], return_index=True)
            columns = zip(
                np.split(documents[order], starts[1:]), np.split(csr.data[order], starts[1:]), strict=True
            )
            self._postings = dict(zip(tokens.tolist(), columns, strict=True))

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, list[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """{query id: {document id: score}} of the best documents, only of those in `top_ranked` if given."""
        rows = list(queries)
        out = self._run([str(row["text"]) for row in rows], query=True)
        places = {document: place for place, document in enumerate(self._ids)}
        results = {}
        for n, row in enumerate(rows):
            scores = self._scores(out, n)
            if top_ranked is None:
                best = np.argsort(-scores, kind="stable")[:top_k]
            else:
                allowed = np.array([places[d] for d in top_ranked[row["id"]]], np.int64)
                best = allowed[np.argsort(-scores[allowed], kind="stable")][:top_k]
            results[str(row["id"])] = {self._ids[place]: float(scores[place]) for place in best.tolist()}
        return results

    def _scores(self, out: Embeddings, n: int) -> NDArray[np.float64]:
        """Scores of all documents for query `n`, float64 [documents]."""
        scores = np.zeros(len(self._ids))
        if out.dense is not None and self._dense is not None:
            scores += self.dense_weight * (self._dense @ out.dense[n])
        if out.sparse is not None:
            for token, weight in out.sparse[n].as_dict().items():
                if token in self._postings:
                    documents, weights = self._postings[token]
                    scores[documents] += self.sparse_weight * weight * weights
        return scores

    def _run(self, texts: list[str], *, query: bool) -> Embeddings:
        return _encode(
            self.gte, texts, query, dense=self.dense_weight != 0, sparse=self.sparse_weight != 0, dim=self.dim
        )

    def __repr__(self) -> str:
        return f"GteSearch({self.gte!r})"

    @cached_property
    def mteb_model_meta(self) -> Any:
        kind = (
            "hybrid"
            if self.dense_weight and self.sparse_weight
            else "sparse"
            if self.sparse_weight
            else "dense"
        )
        return _meta(
            self.gte, self._revision, kind, self.dim or self.gte.manifest.truncate_dim or self.gte.dim
        )


class GteReranker:
    """Scores of pairs: mteb's CrossEncoderProtocol."""

    def __init__(
        self,
        model_name: str = "gte-multilingual-reranker-base",
        revision: str | None = None,
        *,
        device: str | None = None,
        max_length: int | None = None,
        **options: Any,
    ) -> None:
        self.gte = Reranker.open(model_name, provider=device or "cpu", **options)
        self.max_length = max_length
        self._revision = revision

    def predict(
        self, inputs1: Iterable[Mapping[str, Any]], inputs2: Iterable[Mapping[str, Any]], **_: Any
    ) -> Float32:
        """Raw scores, [N]."""
        return self.gte.score(
            list(zip(_texts(inputs1), _texts(inputs2), strict=True)), max_length=self.max_length
        )

    def __repr__(self) -> str:
        return f"GteReranker({self.gte!r})"

    @cached_property
    def mteb_model_meta(self) -> Any:
        return _meta(self.gte, self._revision, "cross-encoder", None)


def _encode(
    gte: Embedder,
    texts: list[str],
    query: bool,
    *,
    dense: bool,
    sparse: bool,
    dim: int | None,
    normalize: bool = True,
) -> Embeddings:
    prompt = QUERY if query and QUERY in gte.manifest.prompts else None
    if query and sparse:
        return of_queries(gte, texts, prompt, dense, dim)
    return gte.encode(texts, dense=dense, sparse=sparse, dim=dim, prompt_name=prompt, normalize=normalize)


def _texts(batches: Iterable[Mapping[str, Any]]) -> list[str]:
    return [text for batch in batches for text in batch["text"]]


def _document(row: Mapping[str, Any]) -> str:
    """Title and text, joined as mteb does it for encoders."""
    return f"{row.get('title') or ''} {row['text']}".strip()


def _is_query(prompt_type: Any) -> bool:
    return bool(getattr(prompt_type, "value", prompt_type) == QUERY)


def _rows(vectors: Any) -> Float32:
    return np.atleast_2d(np.asarray(vectors, np.float32))


def _meta(gte: Embedder | Reranker, revision: str | None, kind: str, dim: int | None) -> Any:
    from mteb.models.model_meta import ModelMeta  # here, since mteb is no dependency of this package

    _, _, commit = gte.manifest.origin.partition("@")
    # mteb stores results by this name, so models that differ in their variant need different ones.
    variant = gte.engine.variant.graph.removesuffix(".onnx")
    return ModelMeta(
        loader=None,
        name=f"gte-runtime/{gte.manifest.model}-{variant}",
        revision=revision or commit or gte.manifest.source[:12],
        release_date=None,
        languages=None,
        n_parameters=None,
        memory_usage_mb=None,
        max_tokens=gte.max_length,
        embed_dim=dim,
        license="apache-2.0",
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["ONNX"],
        similarity_fn_name=gte.manifest.similarity,
        use_instructions=bool(gte.manifest.prompts),
        training_datasets=None,
        model_type=[kind],
        experiment_kwargs={"gte_runtime": __version__},
    )
