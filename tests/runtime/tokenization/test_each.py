"""A list of texts of which some may be refused: every text has its tokens or its own error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.errors import InputError
from gte_runtime.tokenization import Tokens
from gte_runtime.tokenization.each import encode_each


class Tokenizing:
    """Refuses empty strings, as a tokenizer does: with the position of the first."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, texts: Sequence[str], first: int) -> list[Tokens]:
        self.calls.append(len(texts))
        for index, text in enumerate(texts, first):
            if not text:
                raise InputError("an empty text", index=index)
        return [Tokens(np.arange(len(text)), False) for text in texts]


@given(st.lists(st.text("ab", max_size=3)), st.integers(0, 1000))
def test_each_has_its_tokens_or_its_error(texts: list[str], first: int):
    """In order, and errors carry the position in what the user gave."""
    found = encode_each(Tokenizing(), texts, first)
    assert len(found) == len(texts)
    for index, (text, one) in enumerate(zip(texts, found, strict=True)):
        if text:
            assert isinstance(one, Tokens)
            assert len(one.ids) == len(text)
        else:
            assert isinstance(one, InputError)
            assert one.index == first + index


def test_all_at_once_unless_one_is_refused():
    """Good texts are tokenized together, which uses all processors."""
    tokenizing = Tokenizing()
    encode_each(tokenizing, ["a", "b", "ab"])
    assert tokenizing.calls == [3]
    encode_each(tokenizing, ["a", "", "ab"])
    assert tokenizing.calls == [3, 3, 1, 1, 1]


def test_other_errors_are_raised():
    """Only a refused input is a text's own error."""

    def broken(texts: Sequence[str], first: int) -> list[Tokens]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        encode_each(broken, ["a"])
