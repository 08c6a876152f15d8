"""A long text is tokenized only as far as its limit needs, and has the tokens of the whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from fuzzing import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from gte_runtime.errors import InputTooLongError
from gte_runtime.tokenization import Tokenizer
from gte_runtime.tokenization.prefix import Prefixes, _common
from gte_runtime.tokenization.tokenizer import FIRST_GUESS, LONGEST, LONGEST_PIECE

ROOT = Path(__file__).parents[3]


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


def watch(tokenizer: Tokenizer) -> list[int]:
    """A list to which the characters of each text are added that goes through the whole of the library."""
    seen: list[int] = []

    class Watching:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
            seen.extend(map(len, texts))
            return self._real.encode_batch_fast(texts, **options)

    tokenizer._tokenizer = Watching(tokenizer._tokenizer)
    return seen


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


@settings(max_examples=examples(300), deadline=None)
@given(text=LONG, room=st.integers(1, 60), near=st.booleans())
def test_a_cut_text_has_the_tokens_of_the_whole(pair: Pair, text: str, room: int, near: bool):
    """Whatever text and limit: the ids and the flag are those of tokenizing all of it."""
    if near:
        room = max(1, len(pair.plain.encode(text, add_special_tokens=False).ids) + room % 5 - 2)
    pair.compare(text, room + pair.ours.specials)


@settings(max_examples=examples(200), deadline=None)
@given(text=LONG, room=st.integers(1, 60), near=st.booleans())
def test_the_end_of_a_text_has_the_tokens_of_the_whole(pair: Pair, text: str, room: int, near: bool):
    """The same where the beginning is cut off, and for the places of the tokens that are kept."""
    whole = pair.plain.encode(text, add_special_tokens=False)
    if near:
        room = max(1, len(whole.ids) + room % 5 - 2)
    (found,) = pair.ours.encode([text], max_length=room + pair.ours.specials, left=True)
    kept = found.ids[len(pair.ours.prefix) : len(found.ids) - len(pair.ours.suffix)]
    assert kept.tolist() == whole.ids[-room:]
    assert found.truncated == (len(whole.ids) > room)
    spans = [(i, *place) for i, place in zip(whole.ids[:room], whole.offsets, strict=False)]
    assert pair.ours.spans(text, room) == spans


WIDE = {
    "Thai": "ภาษาไทยเป็นภาษาที่สวยงาม",
    "Devanagari": "यह एक लंबा पाठ है ",
    "Bengali": "বাংলা ভাষা ",
    "Tamil": "தமிழ் மொழி ",
    "Khmer": "ភាសាខ្មែរ ",
    "Lao": "ພາສາລາວ ",
    "Myanmar": "မြန်မာဘာသာ ",
    "Georgian": "ქართული ენა ",
    "Amharic": "አማርኛ ",
    "Tibetan": "བོད་ཡིག ",
    "18 characters of one": "\ufdfa",
    "squared kana": "\u3300",
    "compatibility jamo": "ㅎㅏㄴ ",
    "isolated marks": "\ufe70ب",
    "spaces": "คน" + " " * 3000,
}


@pytest.mark.slow
@pytest.mark.parametrize("script", WIDE)
def test_scripts_of_the_world_are_cut_too(mini: Tokenizer, script: str):
    """A text of 100,000 characters has the first, the last and the placed tokens of the whole."""
    plain = tokenizers.Tokenizer.from_file(str(MINI))
    plain.no_truncation()
    text = WIDE[script] * (100_000 // len(WIDE[script]))
    whole = plain.encode(text, add_special_tokens=False)
    for room in (5, 500):
        (first,) = mini.encode([text], max_length=room + 2)
        (last,) = mini.encode([text], max_length=room + 2, left=True)
        assert first.ids.tolist()[1:-1] == whole.ids[:room]
        assert last.ids.tolist()[1:-1] == whole.ids[-room:]
        assert mini.spans(text, room) == [
            (i, *place) for i, place in zip(whole.ids[:room], whole.offsets, strict=False)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(
    "text",
    [
        "e" + "\u0301" * 10**6,
        "\ufdfa\u0301" * 10**6,
        "👩\u200d" * 10**6,
        "\U0010fffd" * 10**6,
        "\x7f" * 10**6,
    ],
    ids=["marks", "18 of one, with a mark", "joined", "unknown", "controls"],
)
def test_a_text_without_a_place_to_cut_is_tokenized_in_part(text: str, left: bool):
    """At most LONGEST characters at all, and LONGEST_PIECE in a call. It is truncated, or refused by name."""
    watched = Tokenizer(MINI.read_bytes())
    seen = watch(watched)
    (found,) = watched.encode([text], max_length=8192, left=left)
    assert found.truncated
    assert max(seen) <= LONGEST_PIECE + 2
    assert sum(seen) <= 2 * LONGEST
    with pytest.raises(InputTooLongError, match=r"tokens|1000001 characters|[12]000000 characters"):
        watched.encode([text], max_length=8192, left=left, truncate=False)


@pytest.mark.slow
def test_words_are_tokenized_piece_by_piece(mini: Tokenizer):
    """Where a text has few tokens for its length, all of them are those of the whole text, in small calls."""
    text = ("\U0010fffd" * 500 + " the end ") * 400
    plain = tokenizers.Tokenizer.from_file(str(MINI))
    plain.no_truncation()
    whole = plain.encode(text, add_special_tokens=False)
    watched = Tokenizer(MINI.read_bytes())
    seen = watch(watched)
    (found,) = watched.encode([text], max_length=8192)
    assert found.ids.tolist()[1:-1] == whole.ids
    assert not found.truncated
    assert max(seen) <= LONGEST_PIECE + 2
    assert watched.spans(text, 8190) == [
        (i, *place) for i, place in zip(whole.ids, whole.offsets, strict=True)
    ]
    (end,) = mini.encode([text], max_length=502, left=True)
    assert end.ids.tolist()[1:-1] == whole.ids[-500:]


@pytest.mark.slow
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("room", [1, 7, 50, 400])
def test_repetitions(pair: Pair, span: str, room: int):
    """The same for the most regular long texts, in which ties and fused runs reach furthest."""
    for text in (span * 700, "ab" + span * 701, span * 300 + "the end " * 90 + span * 300):
        pair.compare(text, room + pair.ours.specials)


@pytest.mark.slow
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
    watched = Tokenizer(MINI.read_bytes())
    seen = watch(watched)
    (found,) = watched.encode([text], max_length=512)
    assert sum(seen) < 20_000
    assert found.truncated == (text[0] != " ")
    if text[0] == " ":
        assert found.ids.tolist() == mini.encode(["end"], max_length=512)[0].ids.tolist()


@given(st.lists(st.integers(0, 2), max_size=9), st.lists(st.integers(0, 2), max_size=9))
def test_common_beginnings(left: list[int], right: list[int]):
    """Against the slow way, token by token."""
    count = 0
    while left[: count + 1] == right[: count + 1] and count < min(len(left), len(right)):
        count += 1
    assert _common(left, right) == count


def prefixes(source: str) -> Prefixes:
    return Tokenizer(SOURCES[source]())._prefixes


@pytest.mark.parametrize("count", [1, 255, 256, 5000])
def test_long_runs_of_spaces_become_short(count: int):
    """From 256 on two are left, the first and the last one: an added token may strip what is next to it."""
    run = ("\t" + " " * count + "\n")[: count - 1] + "\n" if count > 1 else "\n"
    text = f"a{run}b{run}{chr(0xA0) * 300}c"
    short = run if count < 256 else run[0] + run[-1]
    assert prefixes("mini").shorten(text) == f"a{short}b{short}{chr(0xA0) * 300}c"


def test_where_nothing_is_proven():
    """Without words that are tokenized by themselves no beginning is proven, and spaces stay."""
    raw = json.loads(TINY.read_text(encoding="utf-8"))
    raw["normalizer"] = {"type": "Replace", "pattern": {"String": "  "}, "content": "x"}
    found = Tokenizer(json.dumps(raw).encode())._prefixes
    text = "the word " * 400 + " " * 900
    assert (found.shorten(text), found.proven(text, 900, 9)) == (text, ([], 0))
    assert prefixes("wordpiece").proven("x" * 900, 500, 9)[0] == []  # a word of BERT's kind is never cut
    assert prefixes("mini").proven("\u0301" * 900, 500, 9)[0] == []  # combining marks belong together


@settings(max_examples=examples(200), deadline=None)
@given(text=LONG, size=st.integers(1, 300), room=st.integers(1, 60))
def test_what_is_proven_begins_the_whole(pair: Pair, text: str, size: int, room: int):
    """Whatever the size and the room: the ids are those with which the whole text begins, never others."""
    found, _ = pair.ours._prefixes.proven(text + " end" * (1 + size), size, room)
    whole = pair.plain.encode(text + " end" * (1 + size), add_special_tokens=False).ids
    assert found == whole[: len(found)]


@pytest.mark.parametrize("source", ["mini", "tiny"])
def test_enough_is_proven(source: str):
    """Of ordinary text and of Chinese without spaces nearly all tokens of the prefix are, so one will do."""
    plain = tokenizers.Tokenizer.from_str(SOURCES[source]().decode())
    found = prefixes(source)
    for span in ("the quick sort ", "北京是中华人民共和国的首都"):
        text = span * 200
        ids, _ = found.proven(text, 900, 200)
        whole = plain.encode(text[:900], add_special_tokens=False).ids
        assert len(ids) >= min(len(whole), 200 + 64) - 40


@pytest.mark.slow
@pytest.mark.parametrize("token", ["<mask>", "</s>"])
@pytest.mark.parametrize("filler", ["the ", "北京"])
def test_no_cut_near_an_added_token(pair: Pair, token: str, filler: str):
    """Wherever it is: across the cut, right behind it, or a space away, which it may strip."""
    room = 20
    size = (room + 1) * FIRST_GUESS
    for place in range(size - 12, size + 12):
        for spaces in ("", " "):
            text = (filler * 99)[:place] + spaces + token + spaces + filler * 999
            pair.compare(text, room + pair.ours.specials)


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
