"""Texts to ids: the cut of long texts gives the tokens of the whole, limits hold, bad input is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gte_runtime.errors import BundleError, ConfigError, InputError, InputTooLongError
from gte_runtime.tokenization import Tokenizer, as_texts, check_max_length, check_text
from gte_runtime.tokenization.prefix import Prefixes

ROOT = Path(__file__).parents[2]
MINI = ROOT / "models" / "gte-mini" / "tokenizer.json"
TINY = ROOT / "tests" / "data" / "gte-tiny-random" / "tokenizer.json"
LARGE = ROOT.parent / "shared" / "tokenizer" / "xlmr-approx" / "tokenizer.json"


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
    """A run of "ab" is cut before each b or before each a, by whether its length is even: its last character decides its first token."""
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


SPANS = [
    "the quick sort ",
    "北京是中华人民共和国的首都",
    "Straße naïve ",
    "привет ",
    "😀👩‍👩‍👧",
    "नमस्ते",
    "สวัสดีชาวโลก",
    "ສະບາຍດີ",
    "ភាសាខ្មែរ",
    "안녕하세요",
    "\u1112\u1161\u11ab\u1100\u1173\u11af",
    "مرحبا بالعالم",
    "\u0600 12",
    "é\u0301\u0323",
    "Z\u0351\u036f\u0337",
    "ﬁ½Ⅷ",
    "\ufdfa",
    "ｶﾞﾊﾟ",
    "\u200b",
    "\ufeff",
    "\x00",
    "\u3000",
    "\xa0",
    "\r\n",
    "\n\u0301",
    "  ",
    "\t",
    "</s>",
    "<mask>",
    " <mask> ",
    "<pad>",
    "<s",
    "s>",
    "▁",
    "\u2028",
    "\U0001f1e9\U0001f1ea",
    "\U00010480\U00010481",
    "aaaa",
    "abab",
    "北京北",
    "\u202eabc",
    "12,5.7",
    "x" * 40,
    " " * 300,
    "がぎぐ",
    "か\u3099",
]
SPAN = st.tuples(st.sampled_from(SPANS), st.integers(1, 60)).map(lambda pair: pair[0] * pair[1]) | st.text(
    max_size=30
)
LONG = st.lists(SPAN, min_size=1, max_size=30).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=LONG, room=st.integers(1, 60), near=st.booleans())
def test_a_cut_text_has_the_tokens_of_the_whole(pair: Pair, text: str, room: int, near: bool):
    """Whatever the text, a limit small or near its length gives the ids and the flag of tokenizing all of it."""
    if near:
        room = max(1, len(pair.plain.encode(text, add_special_tokens=False).ids) + room % 5 - 2)
    pair.compare(text, room + pair.ours.specials)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("room", [1, 7, 50, 400])
def test_repetitions(pair: Pair, span: str, room: int):
    """The same for the most regular long texts, in which ties and fused runs reach furthest."""
    for text in (span * 700, "ab" + span * 701, span * 300 + "the end " * 90 + span * 300):
        pair.compare(text, room + pair.ours.specials)


@pytest.mark.skipif(
    not LARGE.exists(), reason="the tokenizer of the real size lies beside the project's own checkouts only"
)
@pytest.mark.parametrize("room", [30, 510, 4000])
def test_with_a_vocabulary_of_the_real_size(room: int):
    """The same with 250,000 pieces."""
    large = Pair(LARGE.read_bytes())
    for span in SPANS:
        large.compare(span * 900 + "北京 the end" + span * 300, room + 2)


@pytest.mark.parametrize(
    "text",
    ["x" * 10**6, "北京是首都" * 200_000, " " * 10**6 + "end", "word " * 200_000],
    ids=["x", "CJK", "spaces", "words"],
)
def test_long_texts_are_not_tokenized_whole(mini: Tokenizer, text: str, monkeypatch: pytest.MonkeyPatch):
    """B-9, B-10: of a million characters only as much is tokenized as the limit needs."""
    seen: list[int] = []

    class Watching:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def encode(self, text: str, **options: Any) -> Any:
            seen.append(len(text))
            return self._real.encode(text, **options)

    watched = Tokenizer(MINI.read_bytes())
    watched._tokenizer = Watching(watched._tokenizer)
    (found,) = watched.encode([text], max_length=512)
    assert sum(seen) < 20_000
    assert found.truncated == (text[0] != " ")
    if text[0] == " ":
        assert found.ids.tolist() == mini.encode(["end"], max_length=512)[0].ids.tolist()


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


@pytest.mark.parametrize("literal", ["<s>", "</s>", "<pad>", "<mask>", "<unk>"])
@pytest.mark.parametrize("data", [MINI, TINY], ids=["mini", "tiny"])
def test_special_tokens_in_untrusted_text(data: Path, literal: str):
    """B-8: with the option no text leads to a special id, all others are tokenized as ever, and `<s>` stays in front."""
    careful, reference = (
        Tokenizer(data.read_bytes(), encode_special_tokens=True),
        Tokenizer(data.read_bytes()),
    )
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


def test_facts(mini: Tokenizer):
    """What the manifest keeps: XLM-R's kind can be cut anywhere, BERT's between words, and an unknown normaliser nowhere."""
    assert mini.record.drop_ids == (0, 1, 2, 3)
    assert mini.record.splits_on_whitespace
    assert 8 <= mini.record.longest_piece <= 16
    bert = Tokenizer(wordpiece()).record
    assert (bert.drop_ids, bert.longest_piece, bert.splits_on_whitespace) == ((0, 1, 2, 3), 0, True)
    raw = json.loads(TINY.read_text(encoding="utf-8"))
    raw["normalizer"] = {"type": "Replace", "pattern": {"Regex": "b.*a"}, "content": ""}
    reaching = Tokenizer(json.dumps(raw).encode()).record
    assert (reaching.longest_piece, reaching.splits_on_whitespace) == (0, False)


def test_the_negative_control(monkeypatch: pytest.MonkeyPatch):
    """Cutting at any character without comparing paths gives other tokens: the property above can fail."""
    pair = Pair(seesaw())
    text = "ab" * 5000
    for room in range(10, 14):
        pair.compare(text, room)
    monkeypatch.setattr(Prefixes, "_shared", lambda self, word, wanted: self._ids(word))
    with pytest.raises(AssertionError):  # noqa: PT012 - whether a cut is odd or even depends on the limit
        for room in range(10, 14):
            pair.compare(text, room)
