"""What ships with the package: a folder for each architecture, with graphs or a model or both.

In a wheel they lie in `gte_runtime/models`, in a checkout in `models/` at its root.
"""

from __future__ import annotations

from pathlib import Path

PACKAGED = Path(__file__).parents[1] / "models"
CHECKOUT = Path(__file__).parents[3] / "models"


def models_directory() -> Path:
    return PACKAGED if PACKAGED.is_dir() else CHECKOUT


def shipped_models() -> tuple[str, ...]:
    """Names that `Embedder.open` takes without a path: directories that hold a whole checkpoint."""
    return tuple(sorted(file.parent.name for file in models_directory().glob("*/model.safetensors")))
