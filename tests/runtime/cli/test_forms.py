"""Text forms at the command line: `--nfc`, the notice, and what `gte tokens` says."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from command_line import gte, rows

DECOMPOSED = unicodedata.normalize("NFD", "Tất cả mọi người đều được tự do")
COMPOSED = unicodedata.normalize("NFC", DECOMPOSED)


@pytest.mark.slow
def test_embed(mini_bundle: Path):
    """The vector of the composed text with --nfc; else the other one and one line on stderr."""
    (want,) = rows(gte("embed", "--model", str(mini_bundle), COMPOSED))
    done = gte("embed", "--model", str(mini_bundle), "--nfc", DECOMPOSED)
    assert rows(done) == [want]
    assert done.stderr == b""
    done = gte("embed", "--model", str(mini_bundle), DECOMPOSED, DECOMPOSED)
    assert rows(done)[0]["tokens"] > want["tokens"]
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("gte: warning: a text is not in Unicode's composed form (NFC)")
    assert "--nfc" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "option", "said"),
    [
        (DECOMPOSED, "--no-nfc", "tokens, not in NFC: --nfc composes it)"),
        (DECOMPOSED, "--nfc", "tokens, composed to NFC)"),
        (COMPOSED, "--nfc", "tokens)"),
    ],
)
def test_tokens(mini_bundle: Path, text: str, option: str, said: str):
    first = gte("tokens", "--model", str(mini_bundle), option, text).stdout.decode().splitlines()[0]
    assert first.startswith(text)
    assert first.endswith(said)
