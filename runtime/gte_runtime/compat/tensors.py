"""PyTorch tensors at the edges, for programs that already work with them. Nothing here imports torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Float32
from ..errors import ConfigError


def torch_for(option: str) -> Any:
    """The torch that the program has imported.

    Raises:
        ConfigError: it has not, so tensors would be the first thing to need it.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        raise ConfigError(
            f"{option} asks for PyTorch tensors, and torch is not imported here; import it first, or take numpy arrays"
        )
    return torch


def as_torch(array: NDArray[Any], option: str) -> Any:
    """The array as a tensor on the CPU, sharing its memory."""
    return torch_for(option).from_numpy(np.ascontiguousarray(array))


def is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_rows(values: Any) -> Float32:
    """Arrays, tensors or lists of either as float32 [..., dim]."""
    if is_tensor(values):
        return np.asarray(values.detach().float().cpu().numpy(), np.float32)
    if isinstance(values, Sequence) and any(is_tensor(value) for value in values):
        return np.stack([as_rows(value) for value in values])
    return np.asarray(values, np.float32)
