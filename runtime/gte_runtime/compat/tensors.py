"""Converts between numpy arrays and PyTorch tensors, for programs that use tensors. It never imports
torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Float32
from ..errors import ConfigError


def torch_for(option: str) -> Any:
    """The module torch, if the program has imported it.

    Args:
        option: the argument that asks for tensors, for the message.

    Raises:
        ConfigError: the program has not imported it.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        raise ConfigError(
            f"{option} asks for PyTorch tensors, and torch is not imported here; import it first, "
            "or take numpy arrays"
        )
    return torch


def as_torch(array: NDArray[Any], option: str) -> Any:
    """The array as a tensor on the CPU that shares its memory."""
    return torch_for(option).from_numpy(np.ascontiguousarray(array))


def is_tensor(value: object) -> bool:
    """Whether this is a PyTorch tensor. Without torch in the program nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_rows(values: Any) -> Float32:
    """Arrays, tensors, or lists of them as one float32 array [..., dim]."""
    if is_tensor(values):
        return np.asarray(values.detach().float().cpu().numpy(), np.float32)
    if isinstance(values, Sequence) and any(is_tensor(value) for value in values):
        return np.stack([as_rows(value) for value in values])
    return np.asarray(values, np.float32)
