"""NVIDIA's driver and GPUs as the driver itself tells, without any CUDA toolkit. Asks; changes nothing."""

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
    index: int
    """As CUDA counts them, after CUDA_VISIBLE_DEVICES."""
    name: str
    capability: str
    """Compute capability, such as 9.0."""
    memory: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Devices:
    driver: str | None
    """The driver's version, or the CUDA version it speaks; None where there is no driver."""
    cuda: str | None
    """The newest CUDA that the driver can serve."""
    gpus: tuple[Gpu, ...]
    problem: str | None = None
    """What the driver answered where it gave no GPUs."""


def devices(library: Any = None) -> Devices:
    """What there is. `library` stands for libcuda, for tests."""
    try:
        driver = library or ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Devices(None, None, (), "there is no NVIDIA driver (libcuda.so.1)")
    if status := driver.cuInit(0):
        return Devices(_version(), None, (), f"the driver finds no GPU (cuInit gave {status})")
    cuda = _ask(driver.cuDriverGetVersion)
    speaks = f"{cuda // 1000}.{cuda % 1000 // 10}"
    gpus = tuple(_gpu(driver, index) for index in range(_ask(driver.cuDeviceGetCount)))
    return Devices(
        _version() or f"for CUDA {speaks}",
        speaks,
        gpus,
        None if gpus else "CUDA_VISIBLE_DEVICES leaves no GPU to this process",
    )


def _gpu(driver: Any, index: int) -> Gpu:
    device = _ask(driver.cuDeviceGet, index)
    name = ctypes.create_string_buffer(100)
    driver.cuDeviceGetName(name, len(name), device)
    memory = ctypes.c_size_t()
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (
        _ask(driver.cuDeviceGetAttribute, attribute, device)
        for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR)
    )
    return Gpu(index, name.value.decode("utf-8", "replace"), f"{major}.{minor}", memory.value)


def _ask(function: Any, *arguments: int) -> int:
    answer = ctypes.c_int()
    function(ctypes.byref(answer), *arguments)
    return answer.value


def _version() -> str | None:
    try:
        found = re.search(
            r"Kernel Module\D*?(\d+(?:\.\d+)+)", DRIVER.read_text(encoding="utf-8", errors="replace")
        )
    except OSError:
        return None
    return found[1] if found else None
