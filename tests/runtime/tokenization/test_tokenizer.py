"""Texts to ids: the cut of long texts gives the tokens of the whole, limits hold, bad input is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gte_runtime.errors import BundleError, InputTooLongError
from gte_runtime.tokenization import Tokenizer
from gte_runtime.tokenization.tokenizer import _mapped_panics, _template

ROOT = Path(__file__).parents[3]


MINI = ROOT / "models" / "gte-mini" / "tokenizer.json"


TINY = ROOT / "tests" / "data" / "gte-tiny-random" / "tokenizer.json"


def wordpiece() -> bytes:
    """A tokenizer of BERT's kind, as the English models of the family have."""
    vocabulary = {
        token: n
        for n, token in enumerate(
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", "##a", "##b", "the", "北"]
        )
    }
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str().encode()


def unigram(pieces: dict[str, float]) -> bytes:
    """A tokenizer of XLM-R's kind with these pieces and scores."""
    raw = json.loads(TINY.read_text(encoding="utf-8"))
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    raw["model"]["vocab"] = (
        [[piece, 0.0] for piece in specials] + [[*item] for item in pieces.items()] + [["<mask>", 0.0]]
    )
    raw["added_tokens"][-1]["id"] = len(pieces) + 4
    return json.dumps(raw).encode()


def ties() -> bytes:
    """Overlapping pieces of equal score."""
    return unigram(
        {
            "▁": -2,
            "a": -4,
            "b": -4,
            "aa": -2,
            "aaa": -4,
            "ab": -2,
            "ba": -2,
            "bab": -4,
            "北": -4,
            "京": -4,
            "北京": -2,
            "京北": -2,
        }
    )


def seesaw() -> bytes:
    """A run of "ab" is cut before each b or before each a, by whether its length is even: its last character
    decides its first token.
    """
    return unigram(
        {
            "▁": -2,
            "ab": -2.0,
            "ba": -1.999,
            "a": -50,
            "b": -50,
            "北京": -2.0,
            "京北": -1.999,
            "北": -50,
            "京": -50,
        }
    )


SOURCES: dict[str, Callable[[], bytes]] = {
    "mini": MINI.read_bytes,
    "tiny": TINY.read_bytes,
    "wordpiece": wordpiece,
    "ties": ties,
    "seesaw": seesaw,
}


class Pair:
    """Our tokenizer, and the library's as it is."""

    def __init__(self, data: bytes) -> None:
        self.ours = Tokenizer(data)
        self.plain = tokenizers.Tokenizer.from_str(data.decode())
        self.plain.no_truncation()
        self.plain.no_padding()
        self.cutting = cache(partial(_cutting, data.decode()))

    def compare(self, text: str, max_length: int) -> None:
        whole = self.plain.encode(text, add_special_tokens=False).ids
        room = max_length - self.ours.specials
        (found,) = self.ours.encode([text], max_length=max_length)
        assert found.ids.tolist() == [*self.ours.prefix, *whole[:room], *self.ours.suffix]
        assert found.truncated == (len(whole) > room)


def _cutting(data: str, limit: int) -> tokenizers.Tokenizer:
    """The library's tokenizer, which cuts at a limit."""
    plain = tokenizers.Tokenizer.from_str(data)
    plain.enable_truncation(limit, strategy="longest_first")
    plain.no_padding()
    return plain


@pytest.fixture(scope="module", params=SOURCES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(SOURCES[request.param]())


@pytest.fixture(scope="module")
def mini() -> Tokenizer:
    return Tokenizer(MINI.read_bytes())


def test_a_long_text_among_short_ones(mini: Tokenizer):
    """Texts keep their order, whichever way each is tokenized."""
    texts = ["one", "long " * 5000, "two", "北" * 9000, ""]
    together = mini.encode(texts, max_length=40)
    for text, found in zip(texts, together, strict=True):
        (alone,) = mini.encode([text], max_length=40)
        assert np.array_equal(found.ids, alone.ids)
        assert found.truncated == alone.truncated


def test_too_long_is_counted(mini: Tokenizer):
    """B-11: the error counts the tokens, exactly where they are known and as a lower bound where not."""
    with pytest.raises(InputTooLongError, match=r"texts\[6\]: \d+ tokens, the limit is 10") as caught:
        mini.encode(["short", "a b c d e f g h i j k"], max_length=10, truncate=False, first_index=5)
    exact = len(mini.encode(["a b c d e f g h i j k"], max_length=100)[0].ids)
    assert (caught.value.index, caught.value.limit, caught.value.tokens) == (6, 10, exact)
    with pytest.raises(InputTooLongError, match=r"at least \d+ tokens"):
        mini.encode(["word " * 100_000], max_length=10, truncate=False)


@cache
def opened(data: Path, encode_special_tokens: bool) -> Tokenizer:
    return Tokenizer(data.read_bytes(), encode_special_tokens=encode_special_tokens)


@pytest.mark.parametrize("literal", ["<s>", "</s>", "<pad>", "<mask>", "<unk>"])
@pytest.mark.parametrize("data", [MINI, TINY], ids=["mini", "tiny"])
def test_special_tokens_in_untrusted_text(data: Path, literal: str):
    """B-8: with the option no text leads to a special id, all others are tokenized as ever, and `<s>` stays
    in front.
    """
    careful, reference = opened(data, True), opened(data, False)
    special = reference.encode([literal], max_length=20)[0].ids[1]
    (found,) = careful.encode([f"a {literal} b{literal}"], max_length=40)
    assert special not in found.ids[1:-1] or literal == "<unk>"
    assert (found.ids[0], found.ids[-1]) == (0, 2)
    for text in ("北京 capital of China?", "unknown \U00010480 glyph", "x < s > y"):
        assert np.array_equal(
            careful.encode([text], max_length=40)[0].ids, reference.encode([text], max_length=40)[0].ids
        )
    assert careful.decode(0) == "<s>"


def test_nul_and_odd_spaces(pair: Pair):
    """B-5, B-6: NUL, zero-width characters, byte order marks and separators are as the library has them."""
    for text in (
        "a\x00b",
        "\x00",
        "\ufeff",
        "\u200b \u2060",
        "\ufffe",
        "\u2028a\u2029",
        "\u202eabc",
        "a" + "\u0301" * 1000,
        "\ufdfa" * 1000,
    ):
        pair.compare(text, 8192)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"[]", b"\xff", MINI.read_bytes()[:5000], b'{"version": "2.0"}']
)
def test_a_file_that_is_none(data: bytes):
    """B-56: the file is named, and the process lives."""
    with pytest.raises(BundleError, match=r"^tokenizer.json: "):
        Tokenizer(data)


def test_blocks_in_the_file_do_not_apply():
    """B-59: truncation and padding of the file would apply silently, so they are switched off."""
    raw = json.loads(TINY.read_text(encoding="utf-8"))
    raw["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    raw["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    texts = ["one two three four five six", "one"]
    limited, free = Tokenizer(json.dumps(raw).encode()), Tokenizer(TINY.read_bytes())
    assert [t.ids.tolist() for t in limited.encode(texts, max_length=100)] == [
        t.ids.tolist() for t in free.encode(texts, max_length=100)
    ]


# Limits, by one token

THE, A, B = 32, 4, 5
"""Ids of words, in BERT's kind."""


@given(count=st.integers(0, 12), limit=st.integers(6, 14))
def test_a_text_is_cut_at_the_limit(count: int, limit: int):
    """Of `count` tokens those stay that fit beside the two special ones; cut is what has one more."""
    tokenizer = Tokenizer(wordpiece())
    texts = ["", "a " * count]
    empty, found = tokenizer.encode(texts, max_length=limit)
    assert found.ids.tolist() == [2, *[A] * min(count, limit - 2), 3]
    assert (found.ids.dtype, empty.ids.tolist(), empty.truncated) == (np.int64, [2, 3], False)
    assert found.truncated == (count > limit - 2)
    if count <= limit - 2:
        assert tokenizer.encode(texts, max_length=limit, truncate=False)[1].ids.tolist() == found.ids.tolist()
        return
    with pytest.raises(InputTooLongError) as caught:
        tokenizer.encode(texts, max_length=limit, truncate=False)
    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (1, count + 2, limit)


@given(first=st.integers(0, 9), second=st.integers(0, 9), limit=st.integers(6, 22))
def test_a_pair_is_cut_at_the_limit(first: int, second: int, limit: int):
    """Three special tokens; the longer text loses its last token until both fit, of equals the first."""
    tokenizer = Tokenizer(wordpiece())
    pairs = [("", ""), ("a " * first, "b " * second)]
    a, b = first, second
    while a + b > limit - 3:
        # Of two that were equal from the start the second keeps the odd token.
        a, b = (a - 1, b) if a > b or (a == b and first <= second) else (a, b - 1)
    empty, found = tokenizer.encode_pairs(pairs, max_length=limit)
    assert found.ids.tolist() == [2, *[A] * a, 3, *[B] * b, 3]
    assert (found.truncated, found.ids.dtype) == (first + second > limit - 3, np.int64)
    assert (empty.ids.tolist(), empty.truncated) == ([2, 3, 3], False)
    if not found.truncated:
        assert len(tokenizer.encode_pairs(pairs, max_length=limit, truncate=False)) == 2
        return
    with pytest.raises(InputTooLongError, match=rf"^pairs\[8\]: {first + second + 3} tokens") as caught:
        tokenizer.encode_pairs(pairs, max_length=limit, truncate=False, first_index=7)
    assert (caught.value.index, caught.value.field, caught.value.limit) == (8, "pairs", limit)
    assert caught.value.tokens == first + second + 3


@pytest.mark.parametrize(
    ("pair", "first", "second"),
    [
        (("the " * 9000, "a"), [THE] * 11, [A]),
        (("a", "the " * 9000), [A], [THE] * 11),
        (("the " * 9000, "a " * 9001), [THE] * 6, [A] * 6),
        (("the " * 400_000, "a " * 400_000), [THE] * 6, [A] * 6),
    ],
)
def test_pairs_with_texts_that_are_not_tokenized_whole(
    pair: tuple[str, str], first: list[int], second: list[int]
):
    """Such a text is the longer one; how many tokens the pair has is known from below only."""
    tokenizer = Tokenizer(wordpiece())
    (found,) = tokenizer.encode_pairs([pair], max_length=15)
    assert (found.ids.tolist(), found.truncated) == ([2, *first, 3, *second, 3], True)
    with pytest.raises(
        InputTooLongError, match=r"^pairs\[0\]: at least \d+ tokens, the limit is 15"
    ) as caught:
        tokenizer.encode_pairs([pair], max_length=15, truncate=False)
    assert 15 < caught.value.tokens < 9000


WORDS = st.lists(
    st.sampled_from(["a", "北京", "the", "éß", "supercalifragilistic", "x1"]), min_size=1, max_size=4
)


@given(
    words=st.tuples(WORDS, WORDS),
    times=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    limit=st.sampled_from([7, 10, 15]),
)
@settings(max_examples=40)
def test_pairs_are_cut_as_the_tokenizers_library_cuts_them(
    pair: Pair, words: tuple[list[str], list[str]], times: tuple[int, int], limit: int
):
    """Which text gets the odd token of an odd room depends on which is longer, also where both are so long
    that only their beginnings are tokenized otherwise."""
    first, second = (" ".join(w) + " " + " ".join(w * n) for w, n in zip(words, times, strict=True))
    (ours,) = pair.ours.encode_pairs([(first, second)], max_length=limit)
    assert ours.ids.tolist() == pair.cutting(limit).encode(first, second).ids


def test_a_query_of_many_pairs_is_counted_once(monkeypatch: pytest.MonkeyPatch):
    tokenizer = Tokenizer(wordpiece())
    counted: list[int] = []
    count = Tokenizer._counted

    def counting(self: Tokenizer, text: str, body: Any) -> Any:
        counted.append(len(text))
        return count(self, text, body)

    monkeypatch.setattr(Tokenizer, "_counted", counting)
    pairs = [("the " * 90, "a " * length) for length in range(80, 90)]
    for found in tokenizer.encode_pairs(pairs, max_length=10):  # room for 7
        assert found.ids.tolist() == [2, *[THE] * 4, 3, *[A] * 3, 3]
    assert len(counted) == 11


# The file's own facts


def test_special_tokens_around_texts_and_pairs(mini: Tokenizer):
    """XLM-R's and BERT's, found by encoding a text."""
    bert = Tokenizer(wordpiece())
    assert (mini.prefix, mini.suffix, mini.specials) == ([0], [2], 2)
    assert (bert.prefix, bert.suffix, bert.specials) == ([2], [3], 2)
    assert (mini.pair_template, mini.pair_specials) == (([0], [2, 2], [2]), 4)
    assert (bert.pair_template, bert.pair_specials) == (([2], [3], [3]), 3)


def with_template(single: str, pair: str) -> bytes:
    """BERT's kind with other special tokens."""
    tokenizer = tokenizers.Tokenizer.from_str(wordpiece().decode())
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    data: bytes = tokenizer.to_str().encode()
    return data


@pytest.mark.parametrize(
    ("single", "prefix", "suffix"),
    [
        ("$A", [], []),
        ("$A [SEP]", [], [3]),
        ("[CLS] $A", [2], []),
        ("[CLS] [SEP] $A [SEP] [SEP]", [2, 3], [3, 3]),
    ],
)
def test_other_special_tokens(single: str, prefix: list[int], suffix: list[int]):
    """None, or several on one side; limits count them."""
    tokenizer = Tokenizer(with_template(single, "[CLS] $A $B"))
    assert (tokenizer.prefix, tokenizer.suffix, tokenizer.specials) == (prefix, suffix, len(prefix + suffix))
    (found,) = tokenizer.encode(["the the the"], max_length=len(prefix + suffix) + 2)
    assert found.ids.tolist() == [*prefix, THE, THE, *suffix]


@pytest.mark.parametrize(
    ("single", "pair"),
    [
        ("[CLS] $A [SEP]", "$A $B"),
        ("[CLS] $A", "[SEP] $A $B"),
        ("$A", "$A $B"),
        ("[CLS] $A", "$A $B [SEP]"),
    ],
)
def test_a_file_without_pairs(single: str, pair: str):
    """Without special tokens for pairs, or with other ones in front than those of texts, it is no
    reranker's."""
    tokenizer = Tokenizer(with_template(single, pair))
    with pytest.raises(BundleError, match="no special tokens for pairs"):
        tokenizer.encode_pairs([("a", "b")], max_length=9)


def test_ids_that_change_between_special_tokens():
    """Where a text has other ids there than alone, special tokens cannot be told from it."""

    class Changing:
        def encode(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
            return SimpleNamespace(ids=[0, 6, 2] if add_special_tokens else [5])

    with pytest.raises(BundleError, match="the special tokens around a text could not be found"):
        _template(Changing())


def test_ids_have_rows_in_the_embedding_table():
    """The largest id, of the vocabulary or of an added token, is the last row at most."""
    for data, largest in ((wordpiece(), 33), (TINY.read_bytes(), 1500)):
        tokenizer = Tokenizer(data)
        tokenizer.check_ids(largest + 1)
        with pytest.raises(BundleError, match=rf"has id {largest}, the embedding table has {largest} rows"):
            tokenizer.check_ids(largest)


def test_a_vocabulary_without_an_unknown_token():
    """It fails with the first character that it lacks, so it is refused before that."""
    raw = json.loads(TINY.read_text(encoding="utf-8"))
    raw["model"]["unk_id"] = None
    tokenizer = Tokenizer(json.dumps(raw).encode())
    with pytest.raises(BundleError, match=r"^tokenizer.json: the tokenizer failed: "):
        tokenizer.check_ids(10**6)


def test_a_record_that_is_given_is_not_read_again(mini: Tokenizer):
    """What a manifest records is used; without it the file says the same."""
    record = replace(mini.record, longest_piece=3)
    assert Tokenizer(MINI.read_bytes(), record).record is record
    assert Tokenizer(MINI.read_bytes()).record == mini.record


# Back to texts


def test_texts_of_ids(mini: Tokenizer):
    """A piece is decoded without the mark of its space, a special token by its name; careful or not."""
    ids = mini.encode(["the quick"], max_length=20)[0].ids.tolist()
    for tokenizer in (mini, Tokenizer(MINI.read_bytes(), encode_special_tokens=True)):
        assert "".join(map(tokenizer.decode, ids[1:-1])) == "thequick"
        assert [tokenizer.decode(token) for token in (0, 2, 2)] == ["<s>", "</s>", "</s>"]
    assert mini.join(ids, True) == "the quick"
    assert mini.join(ids, False) == "<s> the quick</s>"
    assert mini.join(iter(ids), True) == "the quick"


def test_spans(mini: Tokenizer):
    """Where each token is in the text, in characters, without special tokens around it."""
    text = "北京 <mask> the"
    spans = mini.spans(text)
    assert [token for token, *_ in spans] == mini.encode([text], max_length=50)[0].ids.tolist()[1:-1]
    assert [text[start:end].strip() for _, start, end in spans if start or end > 1] == [
        "北京",
        "<mask>",
        "the",
    ]


def test_careful_tokenizers_without_scores():
    """A WordPiece vocabulary is a dictionary; there `[SEP]` is spelled like any word."""
    careful = Tokenizer(wordpiece(), encode_special_tokens=True)
    (found,) = careful.encode(["[SEP] the"], max_length=20)
    assert (found.ids[0], found.ids[-1], found.ids[-2]) == (2, 3, THE)
    assert 3 not in found.ids[1:-1]


def test_added_tokens_that_are_not_special_stay():
    """A careful tokenizer only takes the special ones out of the text."""
    raw = json.loads(TINY.read_text(encoding="utf-8"))
    raw["added_tokens"].append(raw["added_tokens"][-1] | {"id": 1501, "content": "@@", "special": False})
    data = json.dumps(raw).encode()
    for tokenizer in (Tokenizer(data), Tokenizer(data, encode_special_tokens=True)):
        assert len(tokenizer.encode(["a@@b"], max_length=20)[0].ids) == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_panic_goes_through(error: type[BaseException]):
    """Ctrl-C while a text is tokenized is Ctrl-C."""
    with pytest.raises(error), _mapped_panics():
        raise error
    with (
        pytest.raises(BundleError, match=r"^tokenizer\.json: cannot be read: why$"),
        _mapped_panics("cannot be read"),
    ):
        raise ValueError("why")
    inner = BundleError("as it was")
    with pytest.raises(BundleError) as caught, _mapped_panics():
        raise inner
    assert caught.value is inner
