"""Texts in another Unicode form than NFC: composed on request, named once otherwise."""

from __future__ import annotations

import time
import unicodedata
import warnings
from itertools import accumulate
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.errors import ConfigError
from gte_runtime.tokenization import Tokenizer, form
from gte_runtime.tokenization.form import LONGEST_RUN, choose_form, composed, is_composed, places

MINI = Path(__file__).parents[3] / "models" / "gte-mini" / "tokenizer.json"

# Letters, marks that compose with them in one or two steps or not at all, a jamo syllable, a character that
# decomposes to marks only, ones that NFC decomposes (U+0958) or replaces (U+212B), and separators.
PIECES = st.sampled_from(
    [*"aeoαω 北\n\u0301\u0302\u0316\u0313\u0345\u1112\u1161\u11ab\u0f73\u0915\u093c\u0958\u212béế한"]
)
TEXTS = st.lists(PIECES, max_size=60).map("".join)

VIETNAMESE = "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và các quyền."
DECOMPOSED = unicodedata.normalize("NFD", VIETNAMESE)


@given(text=TEXTS)
def test_composed_is_nfc(text: str):
    assert composed(text) == unicodedata.normalize("NFC", text)
    assert is_composed(text) == unicodedata.is_normalized("NFC", text)


@given(text=TEXTS)
def test_parts_can_be_composed_one_by_one(text: str):
    """No part begins with a character that belongs to the one before it, as far as there is another place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "PART", 3)
        parts = list(form._parts(text))
        assert "".join(parts) == text
        starts = list(accumulate(map(len, parts)))[:-1]
        alone = [bool(form._by_themselves().match(text, start)) for start in starts]
        for before, is_alone in zip([0, *starts], alone, strict=False):
            assert is_alone or not form._by_themselves().search(text, before + 3, before + 6)
        if all(alone):
            assert composed(text) == unicodedata.normalize("NFC", text)


def test_long_runs_of_marks_take_linear_time():
    """Sorting a million of them would take half an hour, in which no other thread runs."""
    run = "\u0301\u0316" * 250_000
    text = f"e\u0301 a{run} e\u0301"
    began = time.monotonic()
    assert composed(text) == f"é a{run} é"
    assert time.monotonic() - began < 60
    short = "a" + "\u0301\u0316" * (LONGEST_RUN // 2 - 1)
    assert composed(short) == unicodedata.normalize("NFC", short) != short
    beyond = "\U000110a5\U000110ba" * 40  # Kaithi letters, which compose: no run of marks
    assert composed(beyond) == unicodedata.normalize("NFC", beyond) != beyond
    both = beyond + "\u0301\U0001e8d0" * LONGEST_RUN  # a run of marks of both kinds after them
    assert composed(both) == unicodedata.normalize("NFC", beyond[:-1]) + both[79:]


@given(text=TEXTS)
def test_places_are_those_before_composing(text: str):
    """Every character of the composed text, and the whole of it, comes from its place: composing that gives
    the character again."""
    other = composed(text)
    spans = [(n, n + 1) for n in range(len(other))]
    found = places(text, spans)
    for (a, b), (start, stop) in zip(spans, found, strict=True):
        assert other[a:b] in composed(text[start:stop])
        assert 0 <= start < stop <= len(text)
    assert places(text, [(0, len(other))]) == [(0, len(text))]
    assert [a for a, _ in found] == sorted(a for a, _ in found)


def test_choices():
    assert [choose_form(v, "NFC") for v in (None, "NFC", "exact")] == ["NFC", "NFC", "exact"]
    for wrong in ("nfc", "NFKC", True, ""):
        with pytest.raises(ConfigError, match="expected 'NFC', 'exact', or None"):
            choose_form(wrong, "exact")


# In the tokenizer


@pytest.fixture(scope="module")
def mini() -> Tokenizer:
    return Tokenizer(MINI.read_bytes(), unicode="NFC")


def test_decomposed_text_gets_the_tokens_of_the_composed(mini: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    """Short and long, whole and cut at either end, in pairs, and with the places in the text as it is."""
    for times in (1, 400):
        plain, other = f"{VIETNAMESE} " * times, f"{DECOMPOSED} " * times
        for left in (False, True):
            want, found = (mini.encode([text], max_length=300, left=left)[0] for text in (plain, other))
            assert found.ids.tolist() == want.ids.tolist()
            assert found.truncated == want.truncated == (times > 1)
        want, found = (mini.encode_pairs([(text, plain)], max_length=300)[0] for text in (plain, other))
        assert found.ids.tolist() == want.ids.tolist()
        spans = mini.spans(other, 290)
        assert [i for i, _, _ in spans] == [i for i, _, _ in mini.spans(plain, 290)]
        pieces = [composed(other[a:b]).strip() for _, a, b in spans[:20]]
        assert pieces == [plain[a:b].strip() for _, a, b in mini.spans(plain, 290)[:20]]
    monkeypatch.setattr(mini.notice, "tell", lambda notice: None)
    (exact,) = mini.encode([DECOMPOSED], max_length=300, unicode="exact")
    assert len(exact.ids) > len(mini.encode([VIETNAMESE], max_length=300)[0].ids)


def test_of_a_very_long_text_only_what_is_read_is_composed(mini: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []

    def counting(text: str) -> str:
        seen.append(len(text))
        return composed(text)

    for name, value in (("composed", counting), ("LONGEST", 2000), ("LONGEST_PIECE", 1000)):
        monkeypatch.setattr(f"gte_runtime.tokenization.tokenizer.{name}", value)
    monkeypatch.setattr("gte_runtime.tokenization.prefix.SLICE", 4000)
    text = DECOMPOSED + " " * 100_000 + f"{DECOMPOSED} " * 1000
    for left in (False, True):
        want = mini.encode([composed(text)], max_length=100, left=left)[0]
        assert mini.encode([text], max_length=100, left=left)[0].ids.tolist() == want.ids.tolist()
    assert min(seen) < 30_000 < len(text)


# The notice


def notices(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for text in texts:
            tokenizer.encode([text], max_length=64)
    return [str(one.message) for one in caught]


def test_the_first_decomposed_text_warns_once():
    tokenizer = Tokenizer(MINI.read_bytes())
    assert notices(tokenizer, ["plain", VIETNAMESE, "北京"]) == []
    (notice,) = notices(tokenizer, [DECOMPOSED, DECOMPOSED])
    assert "not in Unicode's composed form (NFC)" in notice
    assert "unicode='NFC'" in notice
    assert notices(Tokenizer(MINI.read_bytes(), unicode="NFC"), [DECOMPOSED]) == []
    Tokenizer(MINI.read_bytes()).encode([DECOMPOSED], max_length=64, unicode="exact")  # as it was asked for
    with pytest.warns(UserWarning, match="composed form"):
        Tokenizer(MINI.read_bytes()).encode_pairs([("a", DECOMPOSED)], max_length=64)


def test_there_is_no_notice_where_the_tokens_are_the_same(monkeypatch: pytest.MonkeyPatch):
    """A tokenizer that drops accents, as BERT's does; after some such texts it is not looked at any more."""
    monkeypatch.setattr(form, "LOOKS", 3)
    bert = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "e": 1}, unk_token="[UNK]"))
    bert.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer = Tokenizer(bert.to_str().encode())
    calls: list[str] = []
    ids = tokenizer.notice._ids
    tokenizer.notice._ids = lambda text: calls.append(text) or ids(text)  # type: ignore[func-returns-value]
    assert notices(tokenizer, ["e\u0301"] * 9) == []
    assert len(calls) == 6  # each twice
