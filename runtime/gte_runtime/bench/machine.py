"""Where and with what something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from ..threads import thread_count

CPUINFO = Path("/proc/cpuinfo")
PACKAGES = ("gte-runtime", "onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy")


def hardware() -> dict[str, Any]:
    """The processor, its cores, and how many of them affinity and container quota leave to this process."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cores_usable": thread_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Python and the packages that take part, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's name as the system gives it; where it gives none, the architecture."""
    return _from_cpuinfo() or _from_sysctl() or platform.processor() or platform.machine() or "unknown"


def _from_cpuinfo() -> str:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _from_sysctl() -> str:
    if platform.system() != "Darwin":
        return ""
    try:
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
