"""PyTorch's names for devices, as our providers. Pure."""

from __future__ import annotations

from ..errors import ConfigError

DEVICES = {"None": "cpu", "cpu": "cpu", "cuda": "cuda", "cuda:0": "cuda"}


def provider_of(device: object) -> str:
    """The provider for a device's name. None is the CPU: no other device is ever looked for.

    Raises:
        ConfigError: a device we cannot run on. Others of several GPUs are chosen with CUDA_VISIBLE_DEVICES.
    """
    if str(device) not in DEVICES:
        raise ConfigError(f"device is {str(device)[:40]!r}; expected one of None, 'cpu', 'cuda'")
    return DEVICES[str(device)]
