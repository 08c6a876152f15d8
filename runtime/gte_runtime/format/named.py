"""Models that have a short name: their repository on the hub, the hashes of their files and their prompts.

Each has a `model.toml` in a folder of `models/`, written by hand. The format is documented in
models/README.md.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BundleError
from ..machine.files import read_regular
from .manifest import BOUNDS, FileRecord
from .values import read_as

FORMAT = 1
FILE = "model.toml"


@dataclass(frozen=True, slots=True)
class NamedModel:
    """What a model.toml holds."""

    name: str
    """The folder's name."""
    hub: str
    """The repository on the hub, `owner/name`."""
    revision: str | None
    """The commit that is downloaded and that `files` describes; None for main."""
    files: dict[str, FileRecord]
    """Sizes and hashes of its files at that commit."""
    prompts: dict[str, str]
    """Prompts by name, used where the checkpoint itself has none."""
    directory: Path
    """The folder, where published.json may be too."""


def named_models(models: Path) -> dict[str, NamedModel]:
    """{name: model} for every folder of `models` that has a model.toml."""
    return {file.parent.name: read_named(file) for file in sorted(models.glob(f"*/{FILE}"))}


def read_named(file: Path) -> NamedModel:
    """Read a model.toml.

    Raises:
        BundleError: it cannot be read, lacks a key, or has an unknown one.
    """
    at = f"{file.parent.name}/{FILE}"
    try:
        raw: dict[str, Any] = tomllib.loads(read_regular(file).decode("utf-8"))
        if raw.pop("format") != FORMAT:
            raise BundleError(f"{at} has another format; this version reads {FORMAT}")
        named = NamedModel(
            name=file.parent.name,
            hub=read_as(str, raw.pop("hub"), "hub."),
            revision=read_as(str, raw.pop("revision"), "revision.") if "revision" in raw else None,
            files=read_as(dict[str, FileRecord], raw.pop("files", {}), "files.", BOUNDS),
            prompts=read_as(dict[str, str], raw.pop("prompts", {}), "prompts."),
            directory=file.parent,
        )
    except (KeyError, ValueError, OSError, RecursionError, MemoryError) as error:
        raise BundleError(f"{at} cannot be read: {str(error)[:120]}") from None
    if raw:
        raise BundleError(f"{at} has an unknown {min(raw)[:80]}")
    return named
