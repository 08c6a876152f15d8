"""Texts to ids: the cut of long texts gives the tokens of the whole, limits hold, bad input is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from gte_runtime.errors import BundleError, InputTooLongError
from gte_runtime.tokenization import Tokenizer

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

    def compare(self, text: str, max_length: int) -> None:
        whole = self.plain.encode(text, add_special_tokens=False).ids
        room = max_length - self.ours.specials
        (found,) = self.ours.encode([text], max_length=max_length)
        assert found.ids.tolist() == [*self.ours.prefix, *whole[:room], *self.ours.suffix]
        assert found.truncated == (len(whole) > room)


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
