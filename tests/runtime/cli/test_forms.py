"""Text forms at the command line: `--nfc`, the notice, and what `gte tokens` says."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet
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


@pytest.mark.slow
def test_search_and_jobs_compose_too(mini_bundle: Path, tmp_path: Path):
    """A corpus in one form is found by a query in the other, and a job's vectors are those of `gte embed`."""
    (tmp_path / "texts.txt").write_text(f"{COMPOSED}\nanother text\n", encoding="utf-8")
    (tmp_path / "other.txt").write_text(f"{DECOMPOSED}\n", encoding="utf-8")
    model = ("--model", str(mini_bundle))
    options = ("-i", str(tmp_path / "texts.txt"), "--sparse-weight", "0", "--format", "jsonl", "--nfc")
    assert rows(gte("search", *model, *options, DECOMPOSED))[0]["score"] > 0.9999
    gte("job", "run", *model, "--nfc", "-i", str(tmp_path / "other.txt"), "-o", str(tmp_path / "job"))
    table = pyarrow.parquet.read_table(tmp_path / "job" / "part-00000.parquet")
    found = rows(gte("embed", *model, COMPOSED))[0]["dense"]
    np.testing.assert_allclose(table.column("dense").to_pylist()[0], found, atol=1e-7)
