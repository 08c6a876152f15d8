"""What matrices are multiplied in: bfloat16 where the processor has it, ten times slower than float32 where it has not."""

from __future__ import annotations

import torch

MATRICES = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=MATRICES is torch.bfloat16)
