"""What a file says reaches a terminal without its escape sequences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import gte
from spoil import change_manifest
from tensorfile import Tensor, read_tensors, safetensors

from gte_runtime.cli.terminal import escaped, json_text

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\u2066"
SEEN = "\\x1b[2J\\x1b]0;owned\\x07\\x9b31m\\u202egnp.exe\\u2066"

CONTROLLING = set("\x1b\x07\x9b\u202e\u2066")
"""What of it a terminal would obey."""


def test_escaped():
    """Controls become visible, everything else stays: tabs, CJK, emoji of several characters."""
    assert escaped(EVIL) == SEEN
    assert escaped("\ud800\n\r\x7f") == "\\ud800\\n\\r\\x7f"
    plain = "北京\t½ 👩\u200d👩\u200d👧 e\u0301"
    assert escaped(plain) == plain


def test_json_stays_json():
    """Only what JSON itself lets through is escaped, and the value stays the same."""
    value = {EVIL: [EVIL, "北京"]}
    assert not CONTROLLING & set(json_text(value))
    assert json.loads(json_text(value)) == value
    assert json.loads(json_text(value, indent=1)) == value


@pytest.fixture(scope="module")
def evil(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose names and texts control a terminal."""
    bundle = tmp_path_factory.mktemp("evil") / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    change_manifest(
        bundle,
        lambda raw: raw.update(
            model=EVIL, notice=EVIL, made_by=EVIL, origin=EVIL, prompts={EVIL: "x"}, default_prompt=""
        ),
    )
    return bundle


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["info", "info --json", "demo --model", "embed --prompt-name q x --model"]
)
def test_a_bundle_with_escape_sequences(evil: Path, command: str):
    """Name, notice, origin and prompts of a bundle, on stdout and in messages."""
    first, *rest = command.split()
    done = gte(first, str(evil), *rest) if not rest or rest == ["--json"] else gte(first, *rest, str(evil))
    for stream in (done.stdout, done.stderr):
        assert not CONTROLLING & set(stream.decode())
    assert b"owned" in done.stdout + done.stderr


def test_a_tensor_with_an_escape_sequence(golden, tmp_path: Path):
    """A checkpoint's tensors are named in errors."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(golden.checkpoint / name, checkpoint)
    tensors = read_tensors(golden.checkpoint / "model.safetensors") | {EVIL: Tensor("F32", (1,), bytes(4))}
    (checkpoint / "model.safetensors").write_bytes(safetensors(tensors))
    done = gte("build", str(checkpoint), str(tmp_path / "bundle"), "--graphs", str(golden.graphs))
    assert done.returncode == 4
    assert SEEN in done.stderr.decode()


def test_a_document_with_an_escape_sequence(reranker_bundle: Path):
    """Documents of `gte rerank` are shown as they are read, without what moves the cursor."""
    for form in ("table", "jsonl"):
        done = gte(
            "rerank", "--model", str(reranker_bundle), "--format", form, "query", "a\x1b[1Ab\x9bc", "d"
        )
        assert done.returncode == 0, done.stderr
        assert not CONTROLLING & set(done.stdout.decode())
