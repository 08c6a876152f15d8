"""What this package keeps on a machine and can make again: where it lies, and small notes about bundles.

Notes are best effort. One that is absent or unreadable is as good as none, and where none can be
written every start does again what it would have spared: slower, and no less safe.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any


def cache_directory() -> Path:
    """GTE_CACHE, else below the user's cache directory."""
    if named := os.environ.get("GTE_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gte-runtime"


def recall(kind: str, name: str) -> dict[str, Any]:
    """The note of a kind about `name`; empty where there is none."""
    try:
        note = json.loads((cache_directory() / kind / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # the last one is of a note nested beyond reason
        return {}
    return note if isinstance(note, dict) else {}


def remember(kind: str, name: str, note: dict[str, Any]) -> None:
    """Replace the note, whole or not at all."""
    try:
        folder = cache_directory() / kind
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
        try:
            temporary.write_text(json.dumps(note), encoding="utf-8")
            os.replace(temporary, folder / name)
        except OSError:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError):
        return
