"""Describes the machine and the versions with which something was measured."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from ..machine import processor
from ..machine.threads import thread_count

PACKAGES = ("gte-runtime", "onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy")


def hardware() -> dict[str, Any]:
    """The processor, its cores, and how many of them this process may use by affinity and container quota."""
    return {
        "cpu": processor.model(),
        "cores": os.cpu_count(),
        "cores_usable": thread_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of those of PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
