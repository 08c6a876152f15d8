"""Texts and limits are checked before anything is tokenized."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gte_runtime.errors import ConfigError, InputError
from gte_runtime.tokenization import (
    as_pairs,
    as_texts,
    check_errors,
    check_max_length,
    check_pair,
    check_text,
    choose_length,
)


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


def test_limits_become_integers():
    """What comes back is Python's own, whichever integer was given."""
    assert type(check_max_length(np.int64(512), 2, 8192)) is int
    assert type(choose_length(np.int32(512), 2, 8192)) is int


@pytest.mark.parametrize(
    ("value", "limit", "chosen"),
    [(8192, 8192, 8192), (8192, 512, 512), (8192, 32768, 8192), (512, 512, 512), (3, 512, 3)],
)
def test_the_default_limit_fits_every_model(value: int, limit: int, chosen: int):
    """8192 is what every method has by default, so it is no error where a model has fewer positions."""
    assert choose_length(value, 2, limit) == chosen


@pytest.mark.parametrize(
    ("own", "limit", "expected"),
    [
        (0, 8192, 8192),
        (0, 512, 512),
        (0, 32768, 8192),
        (512, 8192, 512),
        (512, 300, 300),
        (9000, 32768, 9000),
    ],
)
def test_a_length_that_is_not_named(own: int, limit: int, expected: int):
    """None is the checkpoint's own limit, or else 8192, and never more than the positions."""
    assert choose_length(None, 2, limit, own) == expected


@pytest.mark.parametrize("value", [8191, 8193, 513, 2, 8192.0, np.int64(8192), True, "8192"])
def test_other_limits_must_fit(value: object):
    """Only Python's 8192 stands for the default; any other value was chosen and is checked."""
    with pytest.raises(ConfigError, match="expected an integer from 3 to 512"):
        choose_length(value, 2, 512)


def refusal(value: object, index: int | None = 4) -> InputError:
    with pytest.raises(InputError) as caught:
        check_text(value, index)
    return caught.value


@pytest.mark.parametrize(
    "ids", [[1, 2], (1,), np.array([3, 4]), [np.int64(5)]], ids=["list", "tuple", "array", "numpy's integers"]
)
def test_token_ids_are_no_text(ids: object):
    """The message says so, because callers pass what another library's tokenizer gave."""
    error = refusal(ids)
    assert (error.index, error.got) == (4, "a list of token ids")
    assert "token ids are not accepted" in str(error)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (None, "NoneType"),
        (float("nan"), "NaN"),
        (1.5, "float"),
        (b"bytes", "bytes"),
        ([], "list"),
        ((), "tuple"),
        (["a"], "list"),
        ([1, "a"], "list"),
        ({1: 2}, "dict"),
        (7, "int"),
        (np.zeros(3), "ndarray"),
    ],
)
def test_what_is_no_text(value: object, got: str):
    """Named by its type, and a missing value of pandas as NaN."""
    error = refusal(value)
    assert (error.index, error.got) == (4, got)
    assert error.reason.partition("; ")[0] == f"expected a string, found {got}"


def test_a_single_text_has_no_index():
    error = refusal("a\ud800", None)
    assert (error.index, error.got) == (None, "a lone surrogate")
    assert str(error).startswith("texts: lone surrogate U+D800 at character 1")


def generated() -> Iterator[str]:
    yield from ("a", "b")


def test_texts_are_a_string_or_several():
    """One string is one text; a generator is read once."""
    assert as_texts("ab") == ["ab"]
    assert as_texts(np.str_("ab")) == ["ab"]
    assert as_texts(("a", 1)) == ["a", 1]
    assert as_texts(generated()) == ["a", "b"]
    assert as_texts([]) == []


@pytest.mark.parametrize("value", [b"a", bytearray(b"a"), {"a": 1}, None, 3, 1.5])
def test_what_holds_no_texts(value: object):
    """Bytes and dictionaries are iterable, but their items are no texts."""
    with pytest.raises(
        InputError, match=r"^texts: expected a string or an iterable of strings, found "
    ) as caught:
        as_texts(value)
    assert (caught.value.got, caught.value.index) == (type(value).__name__, None)


def test_pairs_are_any_iterable():
    """Their items are looked at later, one by one."""
    assert as_pairs([("a", "b"), 3]) == [("a", "b"), 3]
    assert as_pairs(iter([["a", "b"]])) == [["a", "b"]]
    assert as_pairs(()) == []


@pytest.mark.parametrize("value", ["ab", b"ab", {"a": "b"}, None, 3])
def test_what_holds_no_pairs(value: object):
    """A string of two letters is not two texts."""
    with pytest.raises(InputError, match=r"^pairs: expected an iterable of ") as caught:
        as_pairs(value)
    assert (caught.value.got, caught.value.field) == (type(value).__name__, "pairs")


def test_a_pair():
    """A list or a tuple of two texts, each checked as a text."""
    assert check_pair(("a", "b"), 0) == ("a", "b")
    assert check_pair([np.str_("a"), "\udc80"], 0, "replace") == ("a", "?")


@pytest.mark.parametrize(
    ("pair", "got"),
    [
        ("ab", "str"),
        (("a",), "1 items"),
        (("a", "b", "c"), "3 items"),
        (None, "NoneType"),
        ({"a", "b"}, "set"),
        (("a", None), "NoneType"),
        ((None, "b"), "NoneType"),
        (("a", "\udc80"), "a lone surrogate"),
        (("\udc80", "b"), "a lone surrogate"),
    ],
)
def test_what_is_no_pair(pair: object, got: str):
    """The error has the pair's index, whichever of its two texts is refused."""
    with pytest.raises(InputError, match=r"^pairs\[6\]: ") as caught:
        check_pair(pair, 6)
    assert (caught.value.index, caught.value.field, caught.value.got) == (6, "pairs", got)


def test_what_to_do_with_bad_unicode():
    """The two values of the option, and nothing else."""
    check_errors("strict")
    check_errors("replace")
    for value in ("ignore", "", None, True):
        with pytest.raises(ConfigError, match="expected 'strict' or 'replace'"):
            check_errors(value)
