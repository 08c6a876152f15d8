"""One row of an input, and the names of the fields that make it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputFileError


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of an object or columns of a table are read."""

    text: str = "text"
    id: str = "id"
    """It may be missing, unless `id_is_given`."""
    id_is_given: bool = False
    keep: tuple[str, ...] = ()
    """Further ones that are carried to the output."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an input."""

    text: object
    """A string, or the value in its place, which the embedder will refuse."""
    number: int
    """Line, element or row of its file, from 1."""
    id: Any = None
    problem: str | None = None
    """Why the row could not be read."""
    kept: dict[str, Any] = field(default_factory=dict)
    """{name: value} of the fields that are carried."""
    source: str = ""
    """The file's name where there are several."""
    unit: str = "line"

    @property
    def place(self) -> str:
        """Where the row is, for messages: "line 4", or "b.csv row 4"."""
        return f"{self.source} {self.unit} {self.number}".lstrip()


Read = Iterator[Row | None]
"""Rows; None where the input pauses."""


def check_columns(columns: Sequence[str], fields: Fields) -> None:
    """Raises InputFileError, with the columns there are, for a table without one of the fields."""
    wanted = [(fields.text, "--text-field"), *((name, "--keep") for name in fields.keep)]
    for name, option in [*wanted, *([(fields.id, "--id-field")] if fields.id_is_given else [])]:
        if name not in columns:
            there = ", ".join(repr(one) for one in columns[:40])
            raise InputFileError(f"no column {name!r}; the columns are {there}; name one with {option}")
