"""Texts and limits are checked before anything is tokenized."""

from __future__ import annotations

import numpy as np
import pytest

from gte_runtime.errors import ConfigError, InputError
from gte_runtime.tokenization import as_texts, check_max_length, check_text


@pytest.mark.parametrize("value", [0, 1, 2, -1, 8193, 2**63, "512", True, 3.5, None, float("nan")])
def test_limits_out_of_range(value: object):
    """B-13: not an integer, or outside of what special tokens and positions allow."""
    with pytest.raises(ConfigError, match=r"max_length is .*; expected an integer from 3 to 8192"):
        check_max_length(value, 2, 8192)


def test_limits_in_range():
    """The bounds themselves are allowed, numpy's integers too."""
    assert [check_max_length(value, 2, 8192) for value in (3, 8192, np.int64(512))] == [3, 8192, 512]


@pytest.mark.parametrize("position", [0, 3, 9])
def test_half_a_surrogate_pair(position: int):
    """B-2: the position is that of the character; a whole pair is one character and fine."""
    text = "abcdefghij"[:position] + "\udc80" + "x"
    with pytest.raises(InputError, match=rf"texts\[17\]: lone surrogate U\+DC80 at character {position}"):
        check_text(text, 17)
    assert check_text(text, 17, "replace") == text.replace("\udc80", "?")
    assert check_text("😀", 0) == "😀"


def test_numpy_strings_become_strings():
    """B-17: what goes to the tokenizer is a plain string."""
    (text,) = as_texts(np.array(["word"]))
    assert type(check_text(text, 0)) is str
