"""Translates PyTorch's names of devices to providers. Pure."""

from __future__ import annotations

from ..errors import ConfigError

DEVICES = {"None": "cpu", "cpu": "cpu", "cuda": "cuda", "cuda:0": "cuda"}


def provider_of(device: object) -> str:
    """The provider of a device. None is the CPU. Another GPU than the first is chosen with
    CUDA_VISIBLE_DEVICES.

    Raises:
        ConfigError: a device that is not supported.
    """
    if str(device) not in DEVICES:
        raise ConfigError(f"device is {str(device)[:40]!r}; expected one of None, 'cpu', 'cuda'")
    return DEVICES[str(device)]
