"""Tokenizes a list of inputs of which some may be refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import InputError
from .tokenizer import Tokens

T = TypeVar("T")


def encode_each(
    encode: Callable[[Sequence[T], int], list[Tokens]], inputs: Sequence[T], first_index: int = 0
) -> list[Tokens | InputError]:
    """The tokens of each input, or the error for it.

    All inputs are tokenized at once; one by one only if that raises an error.

    Args:
        encode: (inputs, index of the first) -> their tokens. Raises InputError for the first that it refuses.
        inputs: texts or pairs.
        first_index: the position of inputs[0] in the caller's input.
    """
    try:
        return list(encode(inputs, first_index))
    except InputError:
        pass
    out: list[Tokens | InputError] = []
    for index, one in enumerate(inputs, first_index):
        try:
            out += encode([one], index)
        except InputError as error:
            out.append(error)
    return out
