"""`gte build`, then `gte verify` and `gte info`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import gte

from gte_runtime.bundle.directory import Bundle
from gte_runtime.cli.build import command


@pytest.mark.slow
def test_build_verify_info(golden, tmp_path: Path):
    """A checkpoint becomes a bundle that verifies and describes itself."""
    target = tmp_path / "bundle"
    variants = ("--variant", "cpu-fp32", "--variant", "portable-fp32")
    options = ("--graphs", str(golden.graphs), "--nfc", *variants)
    done = gte("build", str(golden.checkpoint), str(target), *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert b"agrees with the oracle" in done.stderr
    verified = gte("verify", str(target))
    assert verified.returncode == 0
    assert b"cpu-fp32: largest distance" in verified.stdout
    facts = json.loads(gte("info", str(target), "--json").stdout)
    assert facts["unicode"] == "NFC"
    assert facts["variants"]["cpu-fp32"]["batch_invariant"] is True
    assert facts["variants"]["portable-fp32"]["batch_invariant"] is False
    weights = target / "weights-fp32.bin"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    broken = gte("verify", str(target))
    assert broken.returncode == 4
    assert b"weights-fp32.bin" in broken.stderr


@pytest.mark.slow
def test_what_is_no_checkpoint(model: str, tmp_path: Path):
    """`gte build` says what it was given instead."""
    (tmp_path / "file").touch()
    for source, what in (
        (model, "is a bundle already"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "none", "is not there"),
    ):
        done = gte("build", str(source), str(tmp_path / "out"))
        assert done.returncode == 4
        assert what in done.stderr.decode()
    assert not (tmp_path / "out").exists()


def test_a_name(golden, tmp_path: Path):
    """Two runs of a trainer, both in a folder checkpoint-500, get names of their own to be served under."""
    arguments = [str(golden.checkpoint), str(tmp_path / "bundle"), "--graphs", str(golden.graphs)]
    done = CliRunner().invoke(command, [*arguments, "--name", "support-search"], catch_exceptions=False)
    assert done.exit_code == 0
    assert Bundle.open(tmp_path / "bundle").manifest.model == "support-search"
    for wrong in ("", "two words", "/x", "a" * 300, "x\ny"):
        refused = CliRunner().invoke(command, [*arguments, "--name", wrong])
        assert refused.exit_code == 2
        assert "is no name of a model" in refused.output
