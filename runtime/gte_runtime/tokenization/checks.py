"""Checks of texts, pairs and limits, before anything is tokenized. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from ..errors import ConfigError, InputError

OnBadUnicode = Literal["strict", "replace"]

DEFAULT_LENGTH = 8192
"""The default limit in tokens: the number of positions of the family's largest models."""


def check_text(text: object, index: int | None, errors: OnBadUnicode = "strict") -> str:
    """Return the text, if it can be tokenized.

    Args:
        text: a value from the caller's input.
        index: its position in the input, for the error.
        errors: "replace" puts "?" in the place of a lone surrogate, which UTF-8 cannot encode.

    Raises:
        InputError: it is not a string, or a string with a lone surrogate.
    """
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if errors == "replace":
                return text.encode("utf-8", "replace").decode()
            half = f"U+{ord(text[error.start]):04X} at character {error.start}"
            reason = f"lone surrogate {half}; pass errors='replace' to put '?' in its place"
            raise InputError(reason, index=index, got="a lone surrogate") from None
        return str(text)
    if (
        isinstance(text, (list, tuple, np.ndarray))
        and len(text)
        and all(isinstance(item, (int, np.integer)) for item in text)
    ):
        reason = "token ids are not accepted, they belong to one tokenizer; pass the text"
        raise InputError(reason, index=index, got="a list of token ids")
    kind = "NaN" if isinstance(text, float) and text != text else type(text).__name__
    raise InputError(f"expected a string, found {kind}{_meant(text)}", index=index, got=kind)


def _meant(text: object) -> str:
    """How to get the string that was probably meant."""
    if isinstance(text, (bytes, bytearray)):
        return "; decode it: text.decode()"
    if isinstance(text, os.PathLike):
        return "; read it: path.read_text()"
    if isinstance(text, Mapping):
        return "; give the string in it, such as row['text']"
    if isinstance(text, (list, tuple)) and text and all(isinstance(item, str) for item in text):
        return "; give one flat list of strings"
    return ""


def as_texts(texts: object) -> list[object]:
    """Return a list of texts: a string is one text, any other iterable holds several.

    Raises:
        InputError: it is neither.
    """
    if isinstance(texts, str):
        return [texts]
    if hint := no_sequence(texts):
        kind = type(texts).__name__
        raise InputError(f"expected a string or an iterable of strings, found {kind}{hint}", got=kind)
    return list(texts)  # type: ignore[call-overload,no-any-return]


def no_sequence(values: object) -> str:
    """Why the order or the values of an iterable would be others than meant, with what to do, as the end of a
    message; empty for one whose values are taken in order."""
    if isinstance(values, Mapping):
        return "; give its values: list(texts.values())"
    if isinstance(values, (set, frozenset)):
        return ", which has no order, so no text would know its row; give a list: sorted(texts)"
    if hasattr(values, "columns") and hasattr(values, "shape"):  # of pandas, polars and others
        return "; give one of its columns: frame['text']"
    if isinstance(values, (bytes, bytearray)):
        return "; decode it: text.decode()"
    return "" if isinstance(values, Iterable) else "; give a list"


def as_pairs(pairs: object) -> list[object]:
    """Return a list of pairs, whose items are not checked yet.

    Raises:
        InputError: it is not an iterable that could hold pairs.
    """
    if isinstance(pairs, str) or no_sequence(pairs):
        kind = type(pairs).__name__
        hint = {
            "dict": "; give its items: list(pairs.items())",
            "DataFrame": "; give frame[['query', 'document']].values.tolist()",
        }
        raise InputError(
            f"expected an iterable of (query, document) pairs, found {kind}{hint.get(kind, '')}",
            field="pairs",
            got=kind,
        )
    return list(pairs)  # type: ignore[call-overload,no-any-return]


def check_pair(pair: object, index: int, errors: OnBadUnicode = "strict") -> tuple[str, str]:
    """Return the two texts of a pair.

    Raises:
        InputError: with the pair's index; it is not a sequence of two strings that can be tokenized.
    """
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        found = (
            f"{len(pair)} items"
            if isinstance(pair, Sequence) and not isinstance(pair, str)
            else type(pair).__name__
        )
        raise InputError(
            f"expected a (query, document) pair, found {found}", index=index, field="pairs", got=found
        )
    try:
        return check_text(pair[0], index, errors), check_text(pair[1], index, errors)
    except InputError as error:
        raise InputError(error.reason, index=index, field="pairs", got=error.got) from None


def check_switches(**given: object) -> None:
    """Raises ConfigError for a switch that is not True or False: the position of an argument was mistaken.

    A number where `dense` stands would be read as True, and what it meant would be lost.
    """
    for name, value in given.items():
        if not isinstance(value, (bool, np.bool_)):
            hint = "; dim= cuts vectors, and there is no batch size" if name in ("dense", "sparse") else ""
            raise ConfigError(f"{name} is {repr(value)[:40]}; expected True or False{hint}")


def check_errors(errors: object) -> None:
    """Raises ConfigError for anything but the values of OnBadUnicode."""
    if errors not in get_args(OnBadUnicode):
        raise ConfigError(f"errors is {repr(errors)[:40]}; expected 'strict' or 'replace'")


def choose_length(value: object, specials: int, limit: int, own: int = 0) -> int:
    """The limit in tokens that a `max_length` means for a model with `limit` positions.

    None is the checkpoint's own limit, `own`; where it has none (0), DEFAULT_LENGTH. DEFAULT_LENGTH becomes
    the model's number of positions where that is smaller. Any other value must fit the model.

    Raises:
        ConfigError: as `check_max_length`.
    """
    if value is None:
        return min(own or DEFAULT_LENGTH, limit)
    return (
        min(DEFAULT_LENGTH, limit)
        if type(value) is int and value == DEFAULT_LENGTH
        else check_max_length(value, specials, limit)
    )


def check_max_length(value: object, specials: int, limit: int) -> int:
    """Return `max_length` as an int.

    Args:
        value: the value from the caller.
        specials: the number of special tokens around every text.
        limit: the number of positions of the model.

    Raises:
        ConfigError: it is not an integer from specials + 1 to limit. With fewer tokens nothing of a text is
            left, and beyond the limit the model has no positions.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, np.integer))
        or not specials + 1 <= value <= limit
    ):
        raise ConfigError(
            f"max_length is {repr(value)[:40]}; expected an integer from {specials + 1} to {limit}"
        )
    return int(value)
