"""What calls return. Values only: they know no model and no device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Float32, Int64
from .errors import GteError
from .sparse import SparseVectors


@dataclass(frozen=True, slots=True)
class Rejected:
    """A text of a stream that could not be embedded."""

    index: int
    error: GteError


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The result for N texts, in input order."""

    dense: Float32 | None
    """[N, dim], L2-normalised after the cut; None when not asked for."""
    sparse: SparseVectors | None
    """One vector per text; None when not asked for, or when the checkpoint has no sparse head."""
    tokens: Int64
    """Tokens of each text as run, special tokens included, [N]."""
    truncated: NDArray[np.bool_]
    """Which texts were cut at max_length, [N]."""
    index: Int64
    """Position of each row in the input, [N]; without gaps but for rejected texts of a stream."""
    rejected: tuple[Rejected, ...] = ()
    """Streams only: texts of this part that could not be embedded."""

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document and how well it answers the query."""

    index: int
    """Its position among the documents given."""
    score: float
    document: str | None = None
    """Its text, if asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The result for N pairs, in input order."""

    scores: Float32
    """[N]."""
    tokens: Int64
    """Tokens of each pair as run, special tokens included, [N]."""
    truncated: NDArray[np.bool_]
    """Which pairs were cut at max_length, [N]."""

    def __len__(self) -> int:
        return len(self.scores)
