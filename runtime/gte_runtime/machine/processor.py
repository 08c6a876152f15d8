"""The processor: its name, and the instruction sets that decide which kernels run."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

FEATURES = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
"""The instruction sets for which ONNX Runtime has kernels of their own, as Linux spells them."""


def model() -> str:
    """The processor's name; where the system gives none, the architecture, such as `x86_64`."""
    return _cpuinfo("model name") or _sysctl() or platform.processor() or platform.machine() or "unknown"


def features() -> tuple[str, ...]:
    """Those of FEATURES that the processor has, as /proc/cpuinfo lists them; empty on other systems."""
    found = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return tuple(feature for feature in FEATURES if feature in found)


def _cpuinfo(field: str) -> str:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next(
        (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), ""
    )


def _sysctl() -> str:
    if platform.system() != "Darwin":
        return ""
    import subprocess

    try:
        done = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
