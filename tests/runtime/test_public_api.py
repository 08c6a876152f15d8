"""A name becomes public on purpose or not at all."""

from __future__ import annotations

import types

import gte_runtime


def test_all_is_what_the_module_shows():
    """`__all__` lists every public name, and nothing else is there but submodules."""
    shown = {
        name
        for name, value in vars(gte_runtime).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert shown | {"__version__"} == set(gte_runtime.__all__)
