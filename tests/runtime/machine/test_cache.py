"""Notes about bundles: whole or not at all, and nothing beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gte_runtime.machine.cache import cache_directory, recall, remember


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GTE_CACHE", str(tmp_path))
    return tmp_path / "kind"


def test_a_note_is_replaced(folder: Path):
    remember("kind", "name", {"a": 1})
    remember("kind", "name", {"b": 2})
    assert recall("kind", "name") == {"b": 2}
    assert [file.name for file in folder.iterdir()] == ["name"]


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "\udcff"])
def test_what_cannot_be_read_is_no_note(folder: Path, content: str):
    folder.mkdir()
    (folder / "name").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert recall("kind", "name") == {}


def test_what_cannot_be_written_leaves_nothing(folder: Path):
    """Here because something else lies in its place."""
    (folder / "name").mkdir(parents=True)
    remember("kind", "name", {"a": 1})
    assert [file.name for file in folder.iterdir()] == ["name"]
    assert recall("kind", "name") == {}


def test_where_the_memory_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """GTE_CACHE, else the user's cache directory."""
    monkeypatch.setenv("GTE_CACHE", str(tmp_path / "named"))
    assert cache_directory() == tmp_path / "named"
    monkeypatch.delenv("GTE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "gte-runtime"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "gte-runtime"
