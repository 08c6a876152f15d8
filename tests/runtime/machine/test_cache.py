"""Notes about bundles: whole or not at all, and nothing beside them. The cache is the user's own."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gte_runtime.errors import BundleError
from gte_runtime.machine.cache import cache_directory, distrust, make_directory, place, recall, remember

OTHER = 65534
"""The user id of `nobody`, who plays another user."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")


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
    folder.mkdir(mode=0o700)
    (folder / "name").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert recall("kind", "name") == {}


def test_what_cannot_be_written_leaves_nothing(folder: Path):
    """Here because something else lies in its place."""
    folder.mkdir(mode=0o700)
    (folder / "name").mkdir(mode=0o700)
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


def test_a_link_in_the_way_is_not_followed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever name the new note is written to first, a link that lies there is not written through."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder.mkdir(mode=0o700)
    (folder / "name").symlink_to(precious)
    (folder / f".name.{os.getpid()}.{threading.get_ident()}").symlink_to(precious)
    for word in ("one", "two"):
        (folder / f".name.{word}").symlink_to(precious)
    words = iter(["one", "two", "three"])  # the next random names, as if they had been guessed
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: words)
    remember("kind", "name", {"a": 1})
    assert precious.read_text() == "precious"
    assert next(words, None) is None  # the names that were taken were tried, and passed over
    assert not (folder / "name").is_symlink()
    assert recall("kind", "name") == {"a": 1}


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_what_is_made_is_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int):
    """Directories of the cache have mode 0700 and notes 0600, whatever the umask."""
    monkeypatch.setenv("GTE_CACHE", str(tmp_path / "new"))
    before = os.umask(umask)
    try:
        remember("kind", "name", {"a": 1})
        make_directory(place("bundles", "name").parent)
    finally:
        os.umask(before)
    modes = {
        path: stat.S_IMODE((tmp_path / "new" / path).stat().st_mode)
        for path in ("", "kind", "kind/name", "bundles")
    }
    assert modes == {"": 0o700, "kind": 0o700, "kind/name": 0o600, "bundles": 0o700}
    assert recall("kind", "name") == {"a": 1}


WRITABLE = [0o720, 0o702, 0o777, 0o1777]


@pytest.mark.parametrize("mode", WRITABLE, ids=oct)
@pytest.mark.parametrize("what", ["kind", "kind/name"])
def test_a_note_that_others_could_have_written_is_none(folder: Path, what: str, mode: int):
    """Neither the note nor its directory may be writable by others. A new note is written elsewhere."""
    remember("kind", "name", {"a": 1})
    (folder.parent / what).chmod(mode)
    assert recall("kind", "name") == {}
    remember("kind", "name", {"b": 2})
    assert recall("kind", "name") == {"b": 2}
    assert "a" in (folder / "name").read_text()


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777], ids=oct)
def test_a_cache_that_others_can_write_to(folder: Path, mode: int):
    """Nothing below it is used: one line says why and what to do, and notes are neither read nor written."""
    remember("kind", "name", {"a": 1})
    folder.parent.chmod(mode)
    with pytest.raises(
        BundleError, match=f"can be written to by other users .mode {mode:o}.*chmod go-w.*GTE_CACHE"
    ):
        place("bundles", "name")
    assert recall("kind", "name") == {}
    remember("kind", "other", {"b": 2})
    assert not (folder / "other").exists()


def test_a_cache_with_a_sticky_bit(folder: Path):
    """In a directory like /tmp, others cannot rename this user's entries, so these are safe."""
    folder.parent.chmod(0o1777)
    remember("kind", "name", {"a": 1})
    assert recall("kind", "name") == {"a": 1}
    assert place("kind", "name") == folder / "name"


@needs_root
@pytest.mark.parametrize("link", [False, True], ids=["directory", "link"])
def test_a_directory_of_another_user(folder: Path, tmp_path: Path, link: bool):
    """It is passed over, with all that is in it, even if its mode is good and its content is ours."""
    remember("kind", "name", {"a": 1})
    if link:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        os.lchown(folder, OTHER, OTHER)
    else:
        os.chown(folder, OTHER, OTHER)
    assert recall("kind", "name") == {}
    assert place("kind", "name") == folder.parent / "kind-0" / "name"
    remember("kind", "name", {"b": 2})
    assert recall("kind", "name") == {"b": 2}


@needs_root
def test_a_cache_of_another_user(folder: Path):
    """Root does not use a user's cache, as with `sudo` and the user's HOME."""
    remember("kind", "name", {"a": 1})
    os.chown(folder.parent, OTHER, OTHER)
    with pytest.raises(BundleError, match=f"belongs to another user .uid {OTHER}.; set GTE_CACHE"):
        place("bundles", "name")
    assert recall("kind", "name") == {}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that every user can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@needs_root
def test_what_root_made_is_trusted(open_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A user may use what root put there, such as an image's build, as long as others cannot write to it."""
    monkeypatch.setenv("GTE_CACHE", str(open_folder / "made"))
    bundle = open_folder / "made" / "bundles" / "name"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    for path in (bundle, bundle.parent, bundle.parent.parent):
        path.chmod(0o755)
    code = (
        "import sys; from gte_runtime.machine.cache import place; print(place('bundles', 'name').parent.name)"
    )
    for mode, expected in ((0o644, "bundles"), (0o666, f"bundles-{OTHER}")):
        (bundle / "manifest.json").chmod(mode)
        found = _as_other(code)
        assert found == expected


def _as_other(code: str) -> str:
    """What a program of another user prints. The package is imported before it becomes that user."""
    code = f"import os, gte_runtime.machine.cache; os.setgid({OTHER}); os.setuid({OTHER})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@needs_root
def test_a_bundle_with_a_file_of_another_user(folder: Path):
    """One file of another user is enough."""
    bundle = folder.parent / "bundles" / "name"
    bundle.mkdir(parents=True, mode=0o700)
    bundle.parent.chmod(0o700)
    (bundle / "weights.bin").write_bytes(b"")
    assert distrust(bundle) is None
    os.chown(bundle / "weights.bin", OTHER, OTHER)
    assert distrust(bundle) == f"{bundle / 'weights.bin'} belongs to another user (uid {OTHER})"


def test_a_directory_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """As another user's directory of mode 0700 is: it is passed over."""
    folder.mkdir(mode=0o700)

    def refuse(path: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", refuse)
    assert distrust(folder) == f"{folder} cannot be read (Permission denied)"


def test_a_user_without_a_home_has_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As a process whose user id is in no passwd file has none: in the directory of temporary files."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("GTE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_directory() == tmp_path / f"gte-runtime-{os.geteuid()}"
    remember("kind", "name", {"a": 1})
    assert recall("kind", "name") == {"a": 1}
    assert stat.S_IMODE(cache_directory().stat().st_mode) == 0o700
