"""The models directory of this package."""

from __future__ import annotations

from gte_runtime.format.models import models_directory, shipped_models


def test_default_model_ships():
    """gte-mini is there by name; gte-multilingual-base ships its graphs only."""
    assert shipped_models() == ("gte-mini",)
    assert (models_directory() / "gte-multilingual-base" / "recipe.toml").exists()
