"""The values that calls return. They know no model and no device."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .arrays import Float32, Int64
from .errors import GteError
from .sparse import SparseVectors


@dataclass(frozen=True, slots=True)
class Rejected:
    """A text of a stream that could not be embedded."""

    index: int
    """Its position in the input."""
    error: GteError
    """Why."""


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The vectors of N texts, in input order."""

    dense: Float32 | None
    """[N, dim], L2-normalised after the cut unless the call said otherwise; None if they were not
    requested."""
    sparse: SparseVectors | None
    """One vector for each text; None if they were not requested, or the checkpoint has no sparse head."""
    tokens: Int64
    """Tokens of each text that were run, special tokens included, [N]."""
    truncated: NDArray[np.bool_]
    """Which texts were cut at max_length, [N]."""
    index: Int64
    """Position of each row in the input, [N]. Only rejected texts of a stream leave gaps."""
    rejected: tuple[Rejected, ...] = ()
    """In a stream, the texts of this part that could not be embedded."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        parts = [f"{len(self)} texts"]
        if self.dense is not None:
            parts.append(f"dense [{len(self)}, {self.dense.shape[1]}]")
        if self.sparse is not None:
            parts.append(f"sparse [{len(self)}]")
        parts.append(f"{int(self.tokens.sum())} tokens")
        parts += [f"{count} truncated" for count in [int(self.truncated.sum())] if count]
        parts += [f"{len(self.rejected)} rejected"] if self.rejected else []
        return f"Embeddings({', '.join(parts)})"


if TYPE_CHECKING:
    # What `Embedder.encode` returns, where its arguments say which vectors were requested.
    class DenseEmbeddings(Embeddings):
        dense: Float32

    class SparseEmbeddings(Embeddings):
        sparse: SparseVectors

    class HybridEmbeddings(DenseEmbeddings, SparseEmbeddings): ...

else:
    DenseEmbeddings = SparseEmbeddings = HybridEmbeddings = Embeddings


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document and how well it answers the query."""

    index: int
    """Its position in the input."""
    score: float
    document: str | None = None
    """Its text, if requested."""

    def __repr__(self) -> str:
        document = "" if self.document is None else f", document={reprlib.repr(self.document)}"
        return f"Ranked(index={self.index}, score={self.score:.6g}{document})"


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The scores of N pairs, in input order."""

    scores: Float32
    """[N]; raw, or from 0 to 1 with sigmoid=True."""
    tokens: Int64
    """Tokens of each pair that were run, special tokens included, [N]."""
    truncated: NDArray[np.bool_]
    """Which pairs were cut at max_length, [N]."""

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        cut = int(self.truncated.sum())
        return (
            f"Scores({len(self)} pairs, {int(self.tokens.sum())} tokens{f', {cut} truncated' if cut else ''})"
        )
