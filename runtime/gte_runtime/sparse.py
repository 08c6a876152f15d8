"""From token weights to sparse vectors, and to the forms that vector stores accept. Pure.

A sparse vector of this family holds, for each distinct token of the text, the largest weight among the
token's occurrences. There is no term expansion, as in SPLADE: tokens that are not in the text are not in
the vector. This module knows no tokenizer: callers pass a function that decodes an id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np

from .arrays import Float32, Int32, Int64
from .errors import ConfigError

PGVECTOR = 16_000
"""Most weights of a sparsevec, by pgvector's documentation."""
PGVECTOR_HNSW = 1_000
"""Most weights of a sparsevec in an HNSW index of pgvector, by its documentation."""
SMALLEST_FEATURE = float(np.finfo(np.float32).tiny)
"""The smallest weight that Lucene's feature fields accept: the smallest normal float32."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """The sparse vector of one text with n distinct tokens.

    `indices` are token ids, int32 [n], ascending and unique. `values` are weights, float32 [n], all above 0.
    """

    indices: Int32
    values: Float32

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        first = ", ".join(f"{i}: {v:.4g}" for i, v in zip(self.indices[:4], self.values[:4], strict=True))
        return f"SparseVector({len(self)} tokens: {{{first}{', ...' if len(self) > 4 else ''}}})"

    def as_dict(self) -> dict[int, float]:
        """{token id: weight}, as Milvus, LangChain and Vespa accept it."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))

    def as_object(self) -> dict[str, list[int] | list[float]]:
        """{"indices": [...], "values": [...]}, as Qdrant and Pinecone accept it; ready for JSON."""
        return {"indices": self.indices.tolist(), "values": self.values.tolist()}

    def top(self, count: int) -> SparseVector:
        """The `count` largest weights; of equal ones those of the lower token ids."""
        if len(self) <= count:
            return self
        kept = np.sort(np.argsort(-self.values, kind="stable")[:count])
        return SparseVector(self.indices[kept], self.values[kept])

    def as_pgvector(self, width: int, limit: int = PGVECTOR_HNSW) -> str:
        """pgvector's text of a `sparsevec(width)`: "{id:weight,...}/width", with ids counted from 1.

        Args:
            width: the number of rows of the embedding table.
            limit: the most weights that are accepted. An HNSW index takes `PGVECTOR_HNSW`, a column
                `PGVECTOR` of them.

        Raises:
            ConfigError: the vector has more weights; `top` gives the largest.
        """
        if len(self) > limit:
            raise ConfigError(
                f"the sparse vector has {len(self)} weights and pgvector takes {limit}; keep the largest "
                f"with top({limit}), or pass limit={PGVECTOR} for a column without an HNSW index"
            )
        pairs = zip(self.indices.tolist(), self.values.astype("U").tolist(), strict=True)
        return "{" + ",".join(f"{index + 1}:{value}" for index, value in pairs) + f"}}/{width}"

    def as_features(self) -> dict[str, float]:
        """{"token id": weight}, as the fields `sparse_vector` and `rank_features` of Elasticsearch and
        OpenSearch accept it. Weights are above 0, as they demand; those too small for their index, below
        `SMALLEST_FEATURE`, are left out.

        The keys are ids, because their keys may hold no dots, as tokens may. OpenSearch's approximate index
        cuts weights at 3.0, and those of queries at 16.0, unless its `quantization_ceiling_ingest` and
        `quantization_ceiling_search` are set higher.
        """
        return {str(index): value for index, value in self.as_dict().items() if value >= SMALLEST_FEATURE}

    def dot(self, other: SparseVector) -> float:
        """The dot product: the sum of the products of weights over shared tokens, summed in float64."""
        _, mine, theirs = np.intersect1d(self.indices, other.indices, assume_unique=True, return_indices=True)
        return float(self.values[mine].astype(np.float64) @ other.values[theirs].astype(np.float64))


class Csr(NamedTuple):
    """Compressed sparse rows, in the order of `scipy.sparse.csr_matrix((data, indices, indptr), shape)`."""

    data: Float32
    indices: Int32
    indptr: Int64
    shape: tuple[int, int]


class SparseVectors(Sequence[SparseVector]):
    """The sparse vectors of several texts, in input order."""

    def __init__(self, vectors: Iterable[SparseVector], width: int) -> None:
        self._vectors = tuple(vectors)
        self.width = width
        """The number of rows of the embedding table: every index is below it."""

    @property
    def shape(self) -> tuple[int, int]:
        """(number of texts, width)."""
        return len(self), self.width

    @overload
    def __getitem__(self, index: int) -> SparseVector: ...
    @overload
    def __getitem__(self, index: slice) -> SparseVectors: ...
    def __getitem__(self, index: int | slice) -> SparseVector | SparseVectors:
        if isinstance(index, slice):
            return SparseVectors(self._vectors[index], self.width)
        return self._vectors[index]

    def __len__(self) -> int:
        return len(self._vectors)

    def __repr__(self) -> str:
        tokens = sum(map(len, self._vectors))
        return f"SparseVectors({len(self)} vectors, {tokens} tokens, width {self.width})"

    def __iter__(self) -> Iterator[SparseVector]:
        return iter(self._vectors)

    def top(self, count: int) -> SparseVectors:
        """The vectors with their `count` largest weights each."""
        return SparseVectors((vector.top(count) for vector in self), self.width)

    def to_csr(self) -> Csr:
        """The vectors as a matrix [N, width]: data float32 and indices int32 [nnz], indptr int64 [N + 1]."""
        indptr = np.zeros(len(self) + 1, np.int64)
        np.cumsum([len(vector) for vector in self], out=indptr[1:])
        none: list[Float32] = [np.zeros(0, np.float32)]
        no_index: list[Int32] = [np.zeros(0, np.int32)]
        data = np.concatenate(none + [vector.values for vector in self])
        indices = np.concatenate(no_index + [vector.indices for vector in self])
        return Csr(data, indices, indptr, (len(self), self.width))


def sparse_vector(ids: Int64, weights: Float32, drop: Iterable[int]) -> SparseVector:
    """The largest weight of each token; special tokens and weights of 0 are dropped.

    Args:
        ids: the token ids of one text, [n].
        weights: the sparse head's output for them, after ReLU, [n].
        drop: ids that are dropped at any position, such as those of special tokens.
    """
    kept = (weights > 0) & ~np.isin(ids, list(drop))
    indices, places = np.unique(ids[kept], return_inverse=True)
    values = np.zeros(len(indices), np.float32)
    np.maximum.at(values, places, weights[kept])
    return SparseVector(indices.astype(np.int32), values)


def by_string(
    ids: Int64, weights: Float32, drop: Iterable[int], decode: Callable[[int], str]
) -> dict[str, float]:
    """{decoded token: largest weight}, in order of first occurrence: the form the model's authors publish.

    Two tokens that decode to the same string, such as a piece with and without a leading space, share a
    key, so this can have fewer entries than the sparse vector.

    Args:
        ids: the token ids of one text, [n].
        weights: the sparse head's output for them, after ReLU, [n].
        drop: ids that are dropped at any position, such as those of special tokens.
        decode: from a token id to its string.
    """
    dropped = set(drop)
    result: dict[str, float] = {}
    for token, weight in zip(ids.tolist(), weights.tolist(), strict=True):
        if weight > 0 and token not in dropped:
            key = decode(token)
            result[key] = max(weight, result.get(key, 0.0))
    return result
