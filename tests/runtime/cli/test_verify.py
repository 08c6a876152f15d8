"""`gte verify` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import gte
from spoil import make_old


def test_verify_a_reranker(reranker_bundle: Path):
    done = gte("verify", str(reranker_bundle))
    assert done.returncode == 0, done.stderr
    assert b"self-check cpu-int8: largest difference" in done.stdout


@pytest.mark.slow
def test_verify_by_name():
    """What `embed` takes by its name, `verify` takes, too."""
    done = gte("verify", "gte-mini")
    assert done.returncode == 0, done.stderr
    assert b"self-check cpu-fp32" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", ["verify", "info", "embed"])
def test_a_bundle_of_an_old_form(bundle_copy: Path, command: str):
    """One line says that it should be built again, however often a command opens it."""
    make_old(bundle_copy)
    done = (
        gte("embed", "--model", str(bundle_copy), "a")
        if command == "embed"
        else gte(command, str(bundle_copy))
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if b"warning" in line]
    assert line.startswith(b"gte: warning: copy was built before manifests had a checksum")


@pytest.mark.parametrize("command", ["verify", "info"])
def test_a_manifest_with_another_character(bundle_copy: Path, command: str):
    """A digit of a recorded vector that is far too small for any self-check is one line and exit code 4."""
    path = bundle_copy / "manifest.json"
    text = path.read_text(encoding="utf-8")
    at = text.index('"dense": [') + len('"dense": [') + 12
    path.write_text(text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :], encoding="utf-8")
    done = gte(command, str(bundle_copy))
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"gte: manifest.json: expected sha256")
