"""Arguments of other libraries' constructors that mean nothing here. They are met with a word, not with silence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from ..errors import ConfigError


def warn_without_effect(given: Mapping[str, object]) -> None:
    """One warning that names the arguments which said something and change nothing."""
    if named := [name for name, value in given.items() if value]:
        warnings.warn(
            f"{', '.join(named)}: for PyTorch, without effect here; precision and operators are the bundle's variant",
            stacklevel=3,
        )


def refuse(given: Mapping[str, object], reason: str) -> None:
    """Raises ConfigError for the first argument that was given: it asks for something else than it would get."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise ConfigError(f"{name}={str(value)[:40]!r}: {reason}")


def check_batch_size(batch_size: object) -> None:
    """Accepted everywhere and used nowhere, since runs are planned by tokens; but nonsense stays nonsense."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size is {str(batch_size)[:40]}; expected an integer of at least 1")
