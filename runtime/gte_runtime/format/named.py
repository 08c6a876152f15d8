"""Models that have a name: where their checkpoints lie, which bytes they are, and how they want to be used.

One `model.toml` in a folder of `models/`, written by hand. The format is documented in models/README.md.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BundleError
from ..machine.files import read_regular
from .manifest import FileRecord

FORMAT = 1
FILE = "model.toml"


@dataclass(frozen=True, slots=True)
class KnownModel:
    name: str
    hub: str
    """Its repository, `owner/name`."""
    revision: str | None
    """The commit whose bytes are known; None where none is, and the repository's main branch is taken."""
    files: dict[str, FileRecord]
    """Sizes and hashes at that commit."""
    prompts: dict[str, str]
    """Put before a text, by name; used where the checkpoint says nothing itself."""
    directory: Path


def known_models(models: Path) -> dict[str, KnownModel]:
    """By name, of all folders that have a model.toml."""
    return {file.parent.name: read_known(file) for file in sorted(models.glob(f"*/{FILE}"))}


def read_known(file: Path) -> KnownModel:
    """Raises BundleError when the file is not one that we write."""
    at = f"{file.parent.name}/{FILE}"
    try:
        raw: dict[str, Any] = tomllib.loads(read_regular(file).decode("utf-8"))
        if raw.pop("format") != FORMAT:
            raise BundleError(f"{at} has another format; this version reads {FORMAT}")
        known = KnownModel(
            name=file.parent.name,
            hub=str(raw.pop("hub")),
            revision=raw.pop("revision", None),
            files={name: FileRecord(**record) for name, record in raw.pop("files", {}).items()},
            prompts=dict(raw.pop("prompts", {})),
            directory=file.parent,
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise BundleError(f"{at} cannot be read: {str(error)[:120]}") from None
    if raw:
        raise BundleError(f"{at} has an unknown {min(raw)}")
    return known
