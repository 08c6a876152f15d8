"""Exact search in a file of texts: every document is compared with every query, in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import Float32, Float64
from ..embedder import Embedder
from ..errors import ConfigError, InputError
from ..scoring import hybrid, lexical
from ..sparse import SparseVectors
from .row import Row
from .rows import Rows


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part of a hybrid score counts. A part of weight 0 is not computed."""

    dense: float = 1.0
    sparse: float = 0.1


@dataclass(frozen=True, slots=True)
class Found:
    """A document and its score for a query."""

    index: int
    """Its position in the input."""
    score: float
    document: Row


class Index:
    """The vectors of documents. Texts that cannot be embedded are in `rejected`."""

    def __init__(
        self,
        embedder: Embedder,
        documents: Rows,
        weights: Weights,
        *,
        dim: int | None = None,
        max_length: int | None = None,
        done: Callable[[int], object] = lambda count: None,
    ) -> None:
        """Embed all documents. `done` is called with how many texts were done since the last call."""
        self._embedder, self._weights, self._dim, self._max_length = embedder, weights, dim, max_length
        self.rows: list[Row] = []
        """All rows of the input, with their texts."""
        self.rejected: dict[int, str] = {}
        """{position in the input: why it has no vectors}"""
        self._index: list[int] = []
        dense: list[Float32] = []
        self._sparse: list[dict[str, float]] = []

        def texts() -> object:
            for row in documents:
                self.rows.append(row)
                yield row.text

        for part in embedder.stream(
            texts(),  # type: ignore[arg-type]
            dense=bool(weights.dense),
            sparse=bool(weights.sparse),
            dim=dim,
            max_length=max_length,
        ):
            self._index += part.index.tolist()
            if part.dense is not None:
                dense.append(part.dense)
            self._sparse += self._by_string(part.sparse)
            for one in part.rejected:
                reason = one.error.reason if isinstance(one.error, InputError) else str(one.error)
                self.rejected[one.index] = self.rows[one.index].problem or reason
            done(len(part) + len(part.rejected))
        self._dense = np.concatenate(dense) if dense else np.zeros((0, 1), np.float32)

    def search(
        self, query: str, count: int, prompt_name: str | None = None, weights: Weights | None = None
    ) -> list[Found]:
        """The `count` best documents, best first; of equal ones those that come first in the input.

        Other weights than those of the index may be given, for parts that it has.
        """
        scores = self.scores(query, prompt_name, weights)
        best = np.argsort(-scores, kind="stable")[:count]
        return [Found(self._index[n], float(scores[n]), self.rows[self._index[n]]) for n in best.tolist()]

    def scores(self, query: str, prompt_name: str | None = None, weights: Weights | None = None) -> Float64:
        """The score of each document that has vectors, float64 [N], as `Embedder.score` gives it."""
        weights = weights or self._weights
        if (weights.dense and not self._weights.dense) or (weights.sparse and not self._weights.sparse):
            raise ConfigError("the index was made without the vectors of one of these weights")
        steps = self._embedder.steps
        out = steps.queries(
            steps.tokens(query, self._max_length, prompt_name=prompt_name),
            dense=bool(weights.dense),
            sparse=bool(weights.sparse),
            dim=steps.check_dim(self._dim),
        )
        cosines: Sequence[float] = [0.0] * len(self._index)
        if out.dense is not None and len(self._index):
            cosines = (self._dense @ out.dense[0]).tolist()
        shared: Sequence[float] = [0.0] * len(self._index)
        for words in self._by_string(out.sparse):
            shared = [lexical(words, document) for document in self._sparse]
        pairs = zip(cosines, shared, strict=True)
        return np.array([hybrid(*pair, weights.dense, weights.sparse) for pair in pairs], np.float64)

    def _by_string(self, vectors: SparseVectors | None) -> list[dict[str, float]]:
        """{decoded token: largest weight} of each vector: tokens with the same string count as shared."""
        result = []
        for vector in vectors or ():
            words: dict[str, float] = defaultdict(float)
            for token, weight in vector.as_dict().items():
                name = self._embedder.tokenizer.decode(token)
                words[name] = max(weight, words[name])
            result.append(dict(words))
        return result
