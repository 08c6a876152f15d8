"""Of several inputs some may be refused: each has its tokens or its own error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.errors import ConfigError, InputError
from gte_runtime.tokenization import Tokens, encode_each


class Encoder:
    """Gives each number as the tokens of itself, and refuses odd ones."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], int]] = []

    def __call__(self, numbers: Sequence[int], first_index: int) -> list[Tokens]:
        self.calls.append((list(numbers), first_index))
        for index, number in enumerate(numbers, first_index):
            if number % 2:
                raise InputError(f"{number} is odd", index=index)
        return [Tokens(np.array([number]), False) for number in numbers]


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(0, 99))
def test_each_has_its_tokens_or_its_error(numbers: list[int], first: int):
    """In the order of the inputs, errors with the positions in the caller's input."""
    found = encode_each(Encoder(), numbers, first)
    assert len(found) == len(numbers)
    for index, (number, one) in enumerate(zip(numbers, found, strict=True), first):
        if number % 2:
            assert isinstance(one, InputError)
            assert (one.index, one.reason) == (index, f"{number} is odd")
        else:
            assert isinstance(one, Tokens)
            assert one.ids.tolist() == [number]


def test_good_inputs_are_tokenized_at_once():
    """One call for all, which tokenizes in parallel; one by one only after an error."""
    encode = Encoder()
    encode_each(encode, [2, 4, 6])
    assert encode.calls == [([2, 4, 6], 0)]
    encode.calls.clear()
    encode_each(encode, [2, 3], 7)
    assert encode.calls == [([2, 3], 7), ([2], 7), ([3], 8)]


def test_other_errors_are_raised():
    """A wrong option is no text's fault."""

    def encode(numbers: Sequence[int], first_index: int) -> list[Tokens]:
        raise ConfigError("max_length is 0")

    with pytest.raises(ConfigError, match="max_length is 0"):
        encode_each(encode, [1, 2])
