"""RELIABILITY.md is a table whose every row names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "RELIABILITY.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| promise |")
]


@cache
def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_every_promise_has_a_test(row: list[str]):
    """Four cells; the third names files of tests and functions in them, or a target of make."""
    promise, _, proof, anchor = row
    assert promise
    assert anchor
    named = re.findall(r"`([^`]+)`", proof)
    assert named
    file = None
    for name in named:
        if name.startswith("make "):
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert name.removeprefix("make ") in targets
        elif name.endswith(".py"):
            file = ROOT / "tests" / name
            assert file.is_file(), name
        else:
            assert file is not None, f"{name} stands before its file"
            assert name.startswith("test_")
            assert name in functions_of(file), f"{file.name} has no {name}"


def test_there_are_promises():
    assert len(ROWS) > 40
    assert PAGE.count("| promise | figure | test | anchor |") == 5
