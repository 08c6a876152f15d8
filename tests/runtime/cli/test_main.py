"""What all commands share: refusals in one line, exit codes, nothing on stdout."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import gte


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["nothing"], 2, "No such command"),
        (["embed", "--dim", "0", "x"], 2, "dim is 0"),
        (["embed", "--dim", "abc", "x"], 2, "abc"),
        (["embed", "--threads", "0", "x"], 2, "threads"),
        (["embed", "--max-length", "2", "x"], 2, "max_length is 2"),
        (["embed", "--no-dense", "x"], 2, "nothing to write"),
        (["embed", "-i", "in.txt", "x"], 2, "not both"),
        (["embed", "-i", "missing.txt"], 4, "missing.txt"),
        (["embed", "-i", "."], 4, "directory"),
        (["embed", "-o", "missing/out.jsonl", "x"], 6, "out.jsonl"),
        (["embed", "--model", "missing", "x"], 4, "neither a bundle directory nor a model that is here"),
        (["embed", "-i", "."], 4, "gte: . is a directory"),
        (["embed", "-i", "https://x.example/texts.jsonl"], 4, "a URL is not downloaded"),
        (["embed", "-o", "n" * 300, "x"], 6, "File name too long"),
        (["build", "missing", "out"], 4, "missing is not there; a checkpoint is a directory"),
        (["verify", "missing"], 4, "neither a bundle directory nor a model that is here"),
        (["embed", b"a\xffb"], 2, "not valid UTF-8"),
    ],
)
def test_refusals(args: list, code: int, says: str, tmp_path: Path):
    """Every refusal is a line of reason and its exit code; nothing is written, and no traceback shown."""
    done = gte(*args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert done.stdout == b""
    assert list(tmp_path.iterdir()) == []


def test_provider_exit_code(model: str):
    """A provider that is not there is exit 5."""
    done = gte("embed", "--model", model, "--provider", "cuda", "--variant", "portable-fp32", "x")
    assert done.returncode == 5, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk(model: str):
    """A write that fails is exit 6 with a line of reason."""
    done = gte("embed", "--model", model, "-o", "/dev/full", "x")
    assert done.returncode == 6
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The shipped model is built there at first: the error says which directory that is about."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("GTE_CACHE", str(tmp_path / "file"))
    done = gte("embed", "x")
    assert done.returncode == 6
    assert b"GTE_CACHE names another directory" in done.stderr
    assert done.stderr.count(b"\n") == 1
