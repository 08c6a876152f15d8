"""The device and the type for training: bfloat16 where the hardware has it, else float32.

On a processor without bfloat16 instructions it would be ten times slower than float32.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
MATRICES = torch.bfloat16 if ON_GPU or torch.cpu._is_avx512_bf16_supported() else torch.float32
if ON_GPU:
    torch.backends.cuda.enable_cudnn_sdp(False)  # it builds a new plan for every length of texts
MULTIPLE = 8 if ON_GPU else 1
"""Padded lengths are multiples of this, as attention kernels on GPUs require."""

T = TypeVar("T")


def autocast() -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=MATRICES is torch.bfloat16)


def sent(prepared: T) -> T:
    """The same nested tuples with their arrays as tensors on the device, copied asynchronously."""
    if isinstance(prepared, np.ndarray):
        tensor = torch.from_numpy(prepared)
        if not ON_GPU:
            return tensor  # type: ignore[return-value]
        return tensor.pin_memory().to(DEVICE, non_blocking=True)  # type: ignore[return-value]
    if isinstance(prepared, tuple):
        parts = [sent(part) for part in prepared]
        if hasattr(prepared, "_fields"):
            return type(prepared)(*parts)  # type: ignore[return-value]
        return tuple(parts)  # type: ignore[return-value]
    return prepared
