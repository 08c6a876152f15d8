"""The models that ship with the package: a folder for each, with graphs, a checkpoint, or both.

An installed wheel has it in `gte_runtime/models`, a checkout of the repository in `models/` at its root.
"""

from __future__ import annotations

from pathlib import Path

PACKAGED = Path(__file__).parents[1] / "models"
CHECKOUT = Path(__file__).parents[3] / "models"


def models_directory() -> Path:
    """The directory of those folders."""
    return PACKAGED if PACKAGED.is_dir() else CHECKOUT


def shipped_models() -> tuple[str, ...]:
    """The names of the models that ship with the package: folders with a whole checkpoint."""
    return tuple(sorted(file.parent.name for file in models_directory().glob("*/model.safetensors")))
