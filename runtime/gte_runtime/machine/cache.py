"""The package's cache directory, and the small JSON notes that are kept in it.

Everything in it can be made again. Notes are best effort: an unreadable note counts as absent, and
where none can be written, every start repeats the work that a note would have saved.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any


def cache_directory() -> Path:
    """`$GTE_CACHE`, else `gte-runtime` in `$XDG_CACHE_HOME`, else `~/.cache/gte-runtime`."""
    if named := os.environ.get("GTE_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gte-runtime"


def recall(kind: str, name: str) -> dict[str, Any]:
    """Read the note `name` of a kind (a subdirectory of the cache); empty where there is none."""
    try:
        note = json.loads((cache_directory() / kind / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # RecursionError: JSON nested too deep
        return {}
    return note if isinstance(note, dict) else {}


def remember(kind: str, name: str, note: dict[str, Any]) -> None:
    """Write the note atomically. A failure to write is ignored."""
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
