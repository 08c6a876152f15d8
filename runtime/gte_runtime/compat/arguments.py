"""Arguments of other libraries that have no meaning here: they lead to a warning or an error."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from ..errors import ConfigError


def warn_without_effect(given: Mapping[str, object]) -> None:
    """One warning that names the arguments which were set and have no effect."""
    if named := [name for name, value in given.items() if value]:
        warnings.warn(
            f"{', '.join(named)}: for PyTorch, without effect here; precision and operators are those of the "
            "bundle's variant",
            stacklevel=3,
        )


def refuse(given: Mapping[str, object], reason: str) -> None:
    """Raises ConfigError, with a reason, for the first argument that is not None or False."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise ConfigError(f"{name}={str(value)[:40]!r}: {reason}")


def check_batch_size(batch_size: object) -> None:
    """Raises ConfigError for an impossible batch size. A possible one has no effect: runs are planned by
    tokens."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size is {str(batch_size)[:40]}; expected an integer of at least 1")
