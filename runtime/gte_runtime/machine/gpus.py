"""NVIDIA's driver and GPUs, queried through the driver's own library (libcuda), without a CUDA toolkit.

It only queries: no CUDA context is created and nothing is changed.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRIVER = Path("/proc/driver/nvidia/version")
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute of cuda.h


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that CUDA may use."""

    index: int
    """CUDA's ordinal, which counts the devices that CUDA_VISIBLE_DEVICES leaves."""
    name: str
    capability: str
    """Compute capability, such as 9.0."""
    memory: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The driver and its GPUs."""

    driver: str | None
    """The driver's version or, where that is unknown, `for CUDA` and a version; None without a driver."""
    cuda: str | None
    """The newest CUDA version that the driver supports."""
    gpus: tuple[Gpu, ...]
    problem: str | None = None
    """Why there are no GPUs, where there are none."""


def devices(library: Any = None) -> Devices:
    """Query the driver and its GPUs. Tests pass a stand-in for libcuda as `library`."""
    try:
        driver = library or ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Devices(None, None, (), "there is no NVIDIA driver (libcuda.so.1)")
    if status := driver.cuInit(0):
        return Devices(_version(), None, (), f"the driver finds no GPU (cuInit gave {status})")
    cuda = _integer(driver.cuDriverGetVersion)
    supported = f"{cuda // 1000}.{cuda % 1000 // 10}"
    gpus = tuple(_gpu(driver, index) for index in range(_integer(driver.cuDeviceGetCount)))
    return Devices(
        _version() or f"for CUDA {supported}",
        supported,
        gpus,
        None if gpus else "CUDA_VISIBLE_DEVICES leaves no GPU to this process",
    )


def _gpu(driver: Any, index: int) -> Gpu:
    device = _integer(driver.cuDeviceGet, index)
    name = ctypes.create_string_buffer(100)
    driver.cuDeviceGetName(name, len(name), device)
    memory = ctypes.c_size_t()
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (
        _integer(driver.cuDeviceGetAttribute, attribute, device)
        for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR)
    )
    return Gpu(index, name.value.decode("utf-8", "replace"), f"{major}.{minor}", memory.value)


def _integer(function: Any, *arguments: int) -> int:
    """Call a driver function that writes an int through its first argument."""
    value = ctypes.c_int()
    function(ctypes.byref(value), *arguments)
    return value.value


def _version() -> str | None:
    try:
        found = re.search(
            r"Kernel Module\D*?(\d+(?:\.\d+)+)", DRIVER.read_text(encoding="utf-8", errors="replace")
        )
    except OSError:
        return None
    return found[1] if found else None
