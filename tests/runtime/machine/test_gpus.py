"""GPUs as NVIDIA's driver describes them."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from gte_runtime.machine.gpus import Gpu, devices


class Driver:
    """libcuda as far as we ask it, with one GPU."""

    def __init__(self, status: int = 0, count: int = 1) -> None:
        self.status, self.count = status, count

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's names
        return self.status

    def __getattr__(self, name: str) -> Any:
        answers = {"cuDriverGetVersion": 13000, "cuDeviceGetCount": self.count}

        def answer(out: Any, *arguments: Any) -> int:
            if name == "cuDeviceGetName":
                out.value = b"stand-in"
            elif name == "cuDeviceTotalMem_v2":
                out._obj.value = 2**33
            elif name == "cuDeviceGetAttribute":
                out._obj.value = {75: 9, 76: 0}[arguments[0]]
            else:
                out._obj.value = answers.get(name, 0)
            return 0

        return answer


def test_devices_as_the_driver_tells_them(monkeypatch: pytest.MonkeyPatch):
    """Name, capability and memory; a driver without GPUs; no driver at all."""
    assert devices(Driver()).gpus == (Gpu(0, "stand-in", "9.0", 2**33),)
    assert devices(Driver()).cuda == "13.0"
    assert devices(Driver(status=100)).problem == "the driver finds no GPU (cuInit gave 100)"
    assert "CUDA_VISIBLE_DEVICES" in str(devices(Driver(count=0)).problem)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert devices().problem == "there is no NVIDIA driver (libcuda.so.1)"
