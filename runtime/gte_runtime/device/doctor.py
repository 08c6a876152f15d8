"""What this machine and this installation can run, and what is missing. It installs and changes nothing.

`examine` reads the machine; `verdict` and `lines` are pure.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ProviderUnavailableError
from ..machine import processor
from ..machine.gpus import Devices, devices
from ..machine.libraries import FILES, Library, preload, provider_file, remedy
from ..machine.threads import cgroup_quota, thread_count
from .graph import load_graph
from .runtime import PROVIDERS, available_providers, quiet
from .tensorrt import tensorrt_version

if TYPE_CHECKING:
    from ..format.manifest import Variant

PACKAGES = ("gte-runtime", "onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy")
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

OLDEST_CAPABILITY = 7.5
"""The oldest compute capability for which onnxruntime-gpu has kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What `examine` found."""

    python: str
    system: str
    cpu: str
    features: tuple[str, ...]
    threads: int
    quota: float | None
    """Processors that the control group grants; None without a quota."""
    memory_limit: int | None
    """Bytes that the control group grants; None without a limit."""
    packages: dict[str, str]
    providers: tuple[str, ...]
    """Those compiled into the installed ONNX Runtime; empty where it is not installed."""
    broken: str | None
    """Why an installed ONNX Runtime cannot be imported; None if it can, or is not installed."""
    libraries: dict[str, tuple[Library, ...]]
    """{provider: the libraries it is linked with}."""
    devices: Devices
    tensorrt: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> Findings:
    """Everything that does not depend on a bundle."""
    providers, broken = _providers()
    return Findings(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=processor.model(),
        features=processor.features(),
        threads=thread_count(),
        quota=cgroup_quota(),
        memory_limit=_memory_limit(),
        packages=_packages(),
        providers=providers,
        broken=broken,
        libraries={provider: tuple(preload(provider)) for provider in FILES if provider_file(provider)},
        devices=devices(),
        tensorrt=tensorrt_version(),
    )


def verdict(found: Findings, provider: str | None = None) -> tuple[bool, str]:
    """Whether a provider can be used, and one line: what is wrong, and the command that fixes it.

    By default the provider is CUDA where onnxruntime-gpu is installed, otherwise the CPU.
    """
    gpu_package = "onnxruntime-gpu" in found.packages
    if "onnxruntime" in found.packages and gpu_package:
        return False, (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'gte-runtime[gpu]'"
        )
    if not found.providers and found.broken is None:
        return False, (
            "ONNX Runtime is not installed: pip install 'gte-runtime[cpu]', "
            "or 'gte-runtime[gpu]' for NVIDIA GPUs"
        )
    if found.broken is not None:
        return False, (
            f"ONNX Runtime is installed and does not import ({found.broken}): "
            "pip install --force-reinstall 'gte-runtime[cpu]'"
        )
    wanted = provider or ("cuda" if gpu_package else "cpu")
    if wanted == "cpu":
        return True, _ready_for_cpu(found)
    if wanted not in found.providers:
        return False, (
            f"this ONNX Runtime has no {wanted} provider: "
            "pip uninstall -y onnxruntime && pip install 'gte-runtime[gpu]'"
        )
    if missing := _missing(found, wanted):
        return False, f"{wanted} does not load for want of {', '.join(missing)}: {remedy(missing)}"
    if not found.devices.gpus:
        return False, f"{wanted} loads and has nothing to run on: {found.devices.problem}"
    if old := [gpu for gpu in found.devices.gpus if float(gpu.capability) < OLDEST_CAPABILITY]:
        name = f"GPU {old[0].index} ({old[0].name})"
        return False, (
            f"{name} has compute capability {old[0].capability}; {OLDEST_CAPABILITY} is the oldest that runs"
        )
    names = ", ".join(f"GPU {gpu.index} ({gpu.name})" for gpu in found.devices.gpus)
    return True, f"{wanted} is ready on {names}"


def placement(graph: bytes, folder: Path, variant: Variant, provider: str) -> dict[str, Any]:
    """How many nodes of a graph each provider runs, and which operators do not run on the wanted one.

    Args:
        graph: the ONNX file's bytes.
        folder: where its weight files lie.
        variant: what the manifest promises about the graph.
        provider: "cpu" or "cuda".

    Returns:
        {"provider": name, "nodes": {ONNX Runtime's provider name: nodes}, "elsewhere": {operator: nodes}}.

    Raises:
        GteError: the variant does not load there.
    """
    options = {} if provider == "cpu" else {"device_id": "0"}
    with quiet():
        session = load_graph(
            graph,
            folder,
            variant,
            provider,
            1,
            provider_options=options,
            entries={"session.record_ep_graph_assignment_info": "1"},
        )
    nodes: dict[str, int] = {}
    elsewhere: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            nodes[part.ep_name] = nodes.get(part.ep_name, 0) + 1
            if part.ep_name != PROVIDERS[provider]:
                elsewhere[node.op_type] = elsewhere.get(node.op_type, 0) + 1
    return {"provider": provider, "nodes": nodes, "elsewhere": elsewhere}


def lines(found: Findings) -> list[tuple[str, str]]:
    """The findings as lines of (name, value)."""
    answers = [
        ("python", f"{found.python}, {found.system}"),
        ("cpu", f"{found.cpu}; {' '.join(found.features) or 'no vector features that count'}"),
        ("threads", _threads(found)),
        ("packages", ", ".join(f"{name} {version}" for name, version in found.packages.items())),
        ("providers", ", ".join(found.providers) or found.broken or "no ONNX Runtime"),
    ]
    for provider, libraries in found.libraries.items():
        for library in libraries:
            answers.append((provider, f"{library.name:<22} {library.found or 'MISSING'}"))
    answers.append(("driver", found.devices.driver or found.devices.problem or "none"))
    for gpu in found.devices.gpus:
        answers.append(
            (
                f"gpu {gpu.index}",
                f"{gpu.name}, compute capability {gpu.capability}, {gpu.memory / 2**30:.0f} GiB",
            )
        )
    if found.devices.driver and not found.devices.gpus:
        answers.append(("gpu", found.devices.problem or "none"))
    answers.append(("tensorrt", found.tensorrt or "not installed (optional)"))
    return answers


def _ready_for_cpu(found: Findings) -> str:
    hint = (
        "; for its GPU: pip uninstall -y onnxruntime && pip install 'gte-runtime[gpu]'"
        if found.devices.gpus
        else ""
    )
    return f"the CPU is ready with {found.threads} {'thread' if found.threads == 1 else 'threads'}{hint}"


def _missing(found: Findings, provider: str) -> list[str]:
    asked: Sequence[str] = ("cuda", "tensorrt") if provider == "tensorrt" else (provider,)
    return list(
        dict.fromkeys(
            lib.name for name in asked for lib in found.libraries.get(name, ()) if lib.found is None
        )
    )


def _threads(found: Findings) -> str:
    parts = [str(found.threads)]
    if found.quota is not None:
        parts.append(f"control group grants {found.quota:g} processors ({math.ceil(found.quota)} threads)")
    if found.memory_limit is not None:
        parts.append(f"and {found.memory_limit / 2**30:.1f} GiB")
    return "; ".join(parts)


def _providers() -> tuple[tuple[str, ...], str | None]:
    try:
        return available_providers(), None
    except ProviderUnavailableError:
        return (), None
    except Exception as error:  # noqa: BLE001 - a damaged installation can raise any error
        return (), f"{type(error).__name__}: {str(error)[:120]}"


def _packages() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _memory_limit() -> int | None:
    for path in MEMORY_LIMITS:
        try:
            text = path.read_text().strip()
            limit = int(text)
        except (OSError, ValueError):
            continue
        return limit if limit < 2**60 else None
    return None
