"""What a tokenizer file says about where texts can be cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

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
