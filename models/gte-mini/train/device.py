"""What it is computed on, and in: bfloat16 where that is fast; a processor without it would be ten times slower than in float32."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
MATRICES = torch.bfloat16 if ON_GPU or torch.cpu._is_avx512_bf16_supported() else torch.float32
if ON_GPU:
    torch.backends.cuda.enable_cudnn_sdp(False)  # it would plan anew for every length of texts
MULTIPLE = 8 if ON_GPU else 1
"""Padded lengths are divisible by so much, which a GPU's attention asks for."""

T = TypeVar("T")


def autocast() -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=MATRICES is torch.bfloat16)


def sent(prepared: T) -> T:
    """The same tuples with their arrays as tensors on the device, without waiting for it."""
    if isinstance(prepared, np.ndarray):
        tensor = torch.from_numpy(prepared)
        return tensor.pin_memory().to(DEVICE, non_blocking=True) if ON_GPU else tensor  # type: ignore[return-value]
    if isinstance(prepared, tuple):
        parts = [sent(part) for part in prepared]
        return type(prepared)(*parts) if hasattr(prepared, "_fields") else tuple(parts)  # type: ignore[return-value]
    return prepared
