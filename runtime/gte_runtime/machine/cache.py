"""The package's cache directory, and the small JSON notes that are kept in it.

Everything in it can be made again. Notes are best effort: an unreadable note counts as absent, and
where none can be written, every start repeats the work that a note would have saved.

Only what no other user could have written is used: each directory from the cache's own down, and each file,
must belong to this user or to root, and must not be writable by group or others. A cache that several users
share may be a directory like /tmp, whose sticky bit keeps them from renaming each other's entries.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from ..errors import BundleError
from .files import read_regular

OWNER_ONLY = 0o700
"""The mode of directories that are made in the cache."""
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def cache_directory() -> Path:
    """`$GTE_CACHE`, else `gte-runtime` in `$XDG_CACHE_HOME`, else `~/.cache/gte-runtime`.

    A user without a home directory, such as one of a container that is in no passwd file, has
    `gte-runtime-UID` in the directory of temporary files.
    """
    if named := os.environ.get("GTE_CACHE"):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "gte-runtime"
    try:
        return Path.home() / ".cache" / "gte-runtime"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"gte-runtime-{os.geteuid()}"


def place(kind: str, name: str) -> Path:
    """The path of an entry of the cache, which may not exist yet: KIND/NAME, or KIND-UID/NAME where another
    user could have written the first, as in a cache that several users share.

    Raises:
        BundleError: another user could have written both.
    """
    for folder in (kind, f"{kind}-{os.geteuid()}"):
        path = cache_directory() / folder / name
        if (why := distrust(path)) is None:
            return path
    raise BundleError(
        f"{why}; set GTE_CACHE to a directory that only you can write to, or open a bundle by its path"
    )


def distrust(path: Path) -> str | None:
    """Why an entry of the cache may be another user's work, in words; None where it cannot be.

    Looks at the cache's directory, all directories from there down to `path`, `path` itself and, if that is a
    directory, what is in it. What does not exist is nobody's work.
    """
    try:
        if why := _distrust_way(path):
            return why
        for entry in path.iterdir() if path.is_dir() else ():
            if why := _distrust(entry, sticky=False):
                return why
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return None


def _distrust_way(path: Path) -> str | None:
    """`distrust` for `path` and the directories above it."""
    root = cache_directory()
    below = path.relative_to(root)
    for part in reversed([below, *below.parents]):
        if why := _distrust(root / part, sticky=part == Path()):
            return why
    return None


def _distrust(path: Path, *, sticky: bool) -> str | None:
    found = [path.lstat()]
    if stat.S_ISLNK(found[0].st_mode):
        found.append(path.stat())
    for status in found:
        if status.st_uid not in (os.geteuid(), 0):
            return f"{path} belongs to another user (uid {status.st_uid})"
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode) or (sticky and mode & stat.S_ISVTX):
            continue
        if mode & WRITABLE_BY_OTHERS:
            return f"{path} can be written to by other users (mode {mode:o}; `chmod go-w` changes that)"
    return None


def make_directory(folder: Path) -> None:
    """Make a directory of the cache, which only this user can enter.

    Raises:
        OSError: it could not be made, or it was made by another user.
    """
    cache_directory().mkdir(parents=True, exist_ok=True, mode=OWNER_ONLY)
    folder.mkdir(exist_ok=True, mode=OWNER_ONLY)
    if why := _distrust_way(folder):
        raise OSError(errno.EPERM, why)


def recall(kind: str, name: str) -> dict[str, Any]:
    """Read the note `name` of a kind (a subdirectory of the cache); empty where there is none."""
    try:
        note = json.loads(read_regular(place(kind, name)).decode("utf-8"))
    except (OSError, ValueError, RuntimeError):  # RecursionError: JSON nested too deep
        return {}
    return note if isinstance(note, dict) else {}


def remember(kind: str, name: str, note: dict[str, Any]) -> None:
    """Write the note atomically. A failure to write is ignored.

    It is written to a new file with a random name, so no link that lies there is followed.
    """
    try:
        target = place(kind, name)
        make_directory(target.parent)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=target.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(note, file)
            os.replace(temporary, target)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
    except (OSError, RuntimeError):
        return
