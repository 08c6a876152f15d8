"""What a tokenizer file says about where texts can be cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from gte_runtime.format.manifest import TokenizerRecord
from gte_runtime.tokenization import Tokenizer
from gte_runtime.tokenization.facts import LOCAL_NORMALIZERS, ROLES, read_facts

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


@pytest.fixture(scope="module")
def mini() -> Tokenizer:
    return Tokenizer(MINI.read_bytes())


def test_facts(mini: Tokenizer):
    """What the manifest keeps: XLM-R's kind can be cut anywhere, BERT's between words, and an unknown
    normaliser nowhere.
    """
    assert mini.record.drop_ids == (0, 1, 2, 3)
    assert mini.record.splits_on_whitespace
    assert 8 <= mini.record.longest_piece <= 16
    bert = Tokenizer(wordpiece()).record
    assert (bert.drop_ids, bert.longest_piece, bert.splits_on_whitespace) == ((0, 1, 2, 3), 0, True)
    raw = json.loads(TINY.read_text(encoding="utf-8"))
    raw["normalizer"] = {"type": "Replace", "pattern": {"Regex": "b.*a"}, "content": ""}
    reaching = Tokenizer(json.dumps(raw).encode()).record
    assert (reaching.longest_piece, reaching.splits_on_whitespace) == (0, False)


def tiny(**changed: Any) -> dict[str, Any]:
    """A parsed file of XLM-R's kind, with other blocks."""
    raw: dict[str, Any] = json.loads(TINY.read_text(encoding="utf-8"))
    return raw | changed


SPLIT, SPACE = {"type": "WhitespaceSplit"}, {"type": "Metaspace"}
CUT_ANYWHERE, CUT_AT_SPACES, CUT_NOWHERE = (True, True), (False, True), (False, False)


def cuts(raw: dict[str, Any]) -> tuple[bool, bool]:
    """Where a text can be cut: inside of words, and between them."""
    record = read_facts(raw)
    return record.longest_piece > 0, record.splits_on_whitespace


def in_a_row(kind: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(parts)}


@pytest.mark.parametrize("name", sorted(LOCAL_NORMALIZERS))
def test_normalizers_that_do_not_reach_over_a_cut(name: str):
    """Alone, in a sequence and in a sequence within one; and none at all."""
    block = {"type": name}
    for normalizer in (
        block,
        in_a_row("normalizers", block, block),
        in_a_row("normalizers", in_a_row("normalizers", block)),
    ):
        assert cuts(tiny(normalizer=normalizer)) == CUT_ANYWHERE
    assert cuts(tiny(normalizer=None)) == CUT_ANYWHERE


@pytest.mark.parametrize("name", ["Replace", "Strip", "Prepend", "ByteLevel", "OfTheFuture"])
def test_normalizers_that_reach_over_a_cut(name: str):
    """One of them, anywhere in a sequence, and a text is tokenized whole."""
    reaches = {"type": name}
    for normalizer in (reaches, in_a_row("normalizers", {"type": "NFKC"}, reaches)):
        assert cuts(tiny(normalizer=normalizer)) == CUT_NOWHERE


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (in_a_row("pretokenizers", SPLIT, SPACE), CUT_ANYWHERE),
        (in_a_row("pretokenizers", in_a_row("pretokenizers", SPLIT), SPACE), CUT_ANYWHERE),
        (in_a_row("pretokenizers", SPLIT, SPACE, SPACE), CUT_AT_SPACES),
        (in_a_row("pretokenizers", SPLIT, {"type": "Digits"}), CUT_AT_SPACES),
        (SPLIT, CUT_AT_SPACES),
        ({"type": "Whitespace"}, CUT_AT_SPACES),
        ({"type": "BertPreTokenizer"}, CUT_AT_SPACES),
        (in_a_row("pretokenizers", SPACE, SPLIT), CUT_NOWHERE),
        (SPACE, CUT_NOWHERE),
        (None, CUT_NOWHERE),
        (in_a_row("pretokenizers"), CUT_NOWHERE),
    ],
)
def test_words_are_split_at_spaces_first(block: dict[str, Any] | None, expected: tuple[bool, bool]):
    """Words are independent if the first step splits at spaces; inside of words only XLM-R's two will do."""
    assert cuts(tiny(pre_tokenizer=block)) == expected


def with_added(**token: Any) -> dict[str, Any]:
    raw = tiny()
    raw["added_tokens"].append({"id": 1501, "content": "new", "normalized": False, "special": False} | token)
    return raw


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ({}, CUT_ANYWHERE),
        ({"content": "two words"}, CUT_NOWHERE),
        ({"content": "a\u3000b"}, CUT_NOWHERE),
        ({"normalized": True}, CUT_AT_SPACES),
    ],
)
def test_added_tokens(token: dict[str, Any], expected: tuple[bool, bool]):
    """One with a space inside could lie across a cut; one that is normalised, inside of a word."""
    assert cuts(with_added(**token)) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"byte_fallback": False}, CUT_ANYWHERE),
        ({"byte_fallback": True}, CUT_AT_SPACES),
        ({"type": "WordPiece"}, CUT_AT_SPACES),
        ({"type": None}, CUT_AT_SPACES),
        ({"vocab": []}, CUT_AT_SPACES),
    ],
)
def test_models(model: dict[str, Any], expected: tuple[bool, bool]):
    """The proof for cuts inside of words is about Unigram, whose unknown characters are one token."""
    raw = tiny()
    raw["model"] |= model
    assert cuts(raw) == expected


def test_the_longest_piece():
    """In characters, of the vocabulary."""
    raw = tiny()
    raw["model"]["vocab"] = [["<s>", 0.0], ["▁北京市", -1.0], ["a", -2.0]]
    assert read_facts(raw).longest_piece == 4


def test_ids_that_are_dropped():
    """Those with a role by name, in the vocabulary or among the added tokens, once each and ascending."""
    raw = tiny(
        added_tokens=[
            {"id": 9, "content": "[UNK]", "normalized": False},
            {"id": 8, "content": "<mask>", "normalized": False},
        ]
    )
    raw["model"]["vocab"] = [["a", 0.0], ["</s>", 0.0], ["b", 0.0], ["<s>", 0.0]]
    assert read_facts(raw).drop_ids == (1, 3, 9)
    raw["model"] = {"type": "WordPiece", "vocab": {"[SEP]": 5, "a": 4, "[CLS]": 2, "[UNK]": 9}}
    assert read_facts(raw) == TokenizerRecord(drop_ids=(2, 5, 9), longest_piece=0, splits_on_whitespace=True)
    raw["model"]["vocab"] = {role: n for n, role in enumerate(ROLES)}
    del raw["added_tokens"]
    assert read_facts(raw).drop_ids == tuple(range(8))
