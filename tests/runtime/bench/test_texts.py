"""Texts of an exact number of tokens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.bench.texts import SENTENCES, Composer
from gte_runtime.errors import ConfigError
from gte_runtime.tokenization import Tokenizer

ROOT = Path(__file__).parents[3]


TOKENIZERS = [
    Tokenizer((ROOT / folder / "tokenizer.json").read_bytes())
    for folder in ("models/gte-mini", "tests/data/gte-tiny-random")
]


def gte(*args: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from gte_runtime.cli import main; main()", "bench", "latency", *args]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False, cwd=cwd)


@pytest.mark.slow
@given(st.sampled_from(TOKENIZERS), st.integers(2, 900), st.integers(0, 100))
def test_texts_have_exactly_the_wanted_tokens(tokenizer: Tokenizer, tokens: int, number: int):
    """Any length from the special tokens alone, for any number; known words only, and the same ones each
    time.
    """
    text = Composer(tokenizer).text(tokens, number)
    ids = tokenizer.encode([text], max_length=10_000)[0].ids
    assert len(ids) == tokens
    assert not set(ids[1:-1].tolist()) & set(tokenizer.record.drop_ids)
    assert set(text.split()) <= set(SENTENCES.split())
    assert Composer(tokenizer).text(tokens, number) == text


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_longest_text(tokenizer: Tokenizer):
    """A text of all the positions there are is exact, too."""
    assert len(tokenizer.encode([Composer(tokenizer).text(8192)], max_length=10_000)[0].ids) == 8192


def test_texts_of_a_large_vocabulary_are_multilingual():
    """With the default model's tokenizer, a text of 512 tokens holds many scripts, and neighbours differ."""
    composer = Composer(TOKENIZERS[0])
    texts = [composer.text(512, number) for number in range(8)]
    assert len(set(texts)) == 8
    for letter in "fиにअو모人":
        assert letter in texts[0]


def test_lengths_below_the_special_tokens_are_refused():
    with pytest.raises(ConfigError, match="at least 2, the special tokens"):
        Composer(TOKENIZERS[0]).text(1)


def test_a_tokenizer_without_our_words_is_refused():
    """Rather no text than one of another length."""
    from tokenizers import Tokenizer as Library
    from tokenizers.models import WordLevel

    data = Library(WordLevel({"<unk>": 0, "qqq": 1}, unk_token="<unk>")).to_str().encode()
    with pytest.raises(ConfigError, match="measure texts of your own"):
        Composer(Tokenizer(data)).text(16)
