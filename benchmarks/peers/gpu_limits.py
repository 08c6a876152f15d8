"""Measures the most that the device can do: TFLOP/s of one matrix product, GB/s of one copy, as JSON.

python -m peers.gpu_limits cuda|cpu
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable


def fastest(run: Callable[[], object], wait: Callable[[], object], seconds: float = 2.0) -> float:
    """Seconds of the fastest run."""
    run()
    wait()
    best, start = float("inf"), time.perf_counter()
    while (before := time.perf_counter()) - start < seconds:
        run()
        wait()
        best = min(best, time.perf_counter() - before)
    return best


def main() -> None:
    import torch

    device = sys.argv[1]
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    size, dtype = (8192, torch.float16) if device == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    product = fastest(lambda: torch.matmul(a, b, out=out), wait)
    source = torch.empty(2**30 if device == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = fastest(lambda: target.copy_(source), wait)
    print(json.dumps({
        "matmul_tflops": 2e-12 * size**3 / product, "matmul": f"{size}x{size}x{size} {dtype}",
        "copy_gb_per_second": 2e-9 * source.numel() / copy, "copy": "bytes read and written",
    }))  # fmt: skip


if __name__ == "__main__":
    main()
