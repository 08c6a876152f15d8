"""A session on one or several NVIDIA GPUs: one lane for each, and CUDA graphs for small requests."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ConfigError, EngineError, ForkedProcessError, OutOfMemory, ProviderUnavailableError
from ..format.manifest import Variant
from ..inference.batch import Batch
from ..inference.halving import all_or_error, run_halved
from ..inference.session import Outputs, Share
from ..machine.libraries import preload, remedy
from ..machine.native import close_at_exit
from .graph import load_graph
from .lanes import Device, Lane, least_loaded
from .runtime import available_providers, quiet, release_of, require_provider, runtime
from .shapes import CAPTURED_SHAPES, Shape

CUDNN_IS_OPTIONAL = (1, 31)
"""The first release of ONNX Runtime in which the option `enable_cudnn` was seen to work. Our graphs need no
cuDNN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaOptions:
    """How to use the GPUs of this machine."""

    devices: tuple[int, ...] = (0,)
    """Which of them, in CUDA's numbering. Each has its own session; a run goes to the least loaded one."""
    memory: int | None = None
    """The most memory to use on each device, in bytes, weights included. None: no limit."""
    latency: bool = False
    """Capture CUDA graphs for small requests when opening."""
    shapes: tuple[Shape, ...] = CAPTURED_SHAPES
    """Shapes of the CUDA graphs to capture."""

    def __post_init__(self) -> None:
        devices = self.devices
        if (
            not devices
            or len(set(devices)) != len(devices)
            or any(type(d) is not int or d < 0 for d in devices)
        ):
            raise ConfigError(f"devices is {devices!r}; expected different numbers from 0, such as (0, 1)")
        if self.memory is not None and (type(self.memory) is not int or self.memory < 1):
            raise ConfigError(f"gpu_mem_limit is {self.memory!r}; expected bytes, or None for no limit")


class CudaSession:
    """A `Session` on one or several GPUs.

    A batch that runs out of memory is halved, and its halves again, until the parts fit; their runs return
    the arena's unused memory to the device. Ctrl-C and `close` stop a run between two operators.
    """

    def __init__(
        self, graph: bytes, folder: Path, variant: Variant, width: int, options: CudaOptions = CudaOptions()
    ) -> None:
        """Load a graph on every device, and capture CUDA graphs in the latency mode.

        Args:
            graph: the ONNX file's bytes, already checked.
            folder: where its weight files lie.
            variant: what the manifest promises about the graph.
            width: values of a state, the second axis of `cls`.
            options: devices, memory and CUDA graphs.

        Raises:
            ProviderUnavailableError: the provider is not in this installation, a library is missing, or there
                is no such GPU.
            BundleVersionError, BundleError: as for `CpuSession`.
            ConfigError: a variant that is not for GPUs, or the latency mode for one that cannot be captured.
        """
        self.provider = "cuda"
        self.captures = options.latency
        """CUDA graphs are captured when opening."""
        if variant.batch == "ragged":
            raise ConfigError(f"{variant.graph} is for the CPU; name another variant for provider='cuda'")
        if options.latency and variant.batch != "packed":
            raise ConfigError(
                "latency=True needs the variant cuda-fp16: other graphs have parts on the CPU, "
                "which a CUDA graph cannot hold"
            )
        _check_memory(options.memory, sum((folder / file).stat().st_size for file in variant.weights))
        require_libraries("cuda")
        self._pid = os.getpid()
        self._variant = variant
        self._lanes: list[Lane] = []
        try:
            with quiet():
                for device in options.devices:
                    load = partial(_load, graph, folder, variant, options, device)
                    self._lanes.append(
                        Lane(
                            load,
                            Device("cuda", device),
                            variant,
                            width,
                            options.shapes if options.latency else (),
                        )
                    )
                for lane in self._lanes:
                    lane.wait_until_loaded()
        except BaseException:
            _close(self._lanes)
            raise
        self.workers = len(self._lanes)
        close_at_exit(self)
        # The thread of a lane would keep the lane alive, and with it the device's memory.
        weakref.finalize(self, _close, self._lanes)

    def report(self) -> dict[str, Any]:
        """The CUDA graphs that each device has, and how long capturing them took."""
        captured = [one for lane in self._lanes for one in lane.captured]
        shapes = [asdict(one.shape) for one in self._lanes[0].captured]
        return {"shapes": shapes, "milliseconds": round(sum(one.milliseconds for one in captured), 1)}

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        if os.getpid() != self._pid:
            raise ForkedProcessError
        owner = owner or object()

        def run(part: Batch, halved: bool) -> Outputs:
            return least_loaded(self._lanes).run(part, owner, halved, states=states)

        return all_or_error(run_halved(run, batch, out_of_memory))

    def stop(self, owner: object) -> None:
        for lane in self._lanes:
            lane.stop(owner)

    def close(self) -> None:
        if os.getpid() == self._pid:
            _close(self._lanes)


def _close(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        lane.close()


def out_of_memory(error: EngineError) -> bool:
    """Whether a batch failed for want of memory, so that half of it may fit."""
    return isinstance(error, OutOfMemory)


def provider_options(options: CudaOptions, device: int, release: tuple[int, ...]) -> dict[str, str]:
    """Options of the CUDA provider, strings as ONNX Runtime wants them. Pure.

    Args:
        options: the user's.
        device: the GPU, in CUDA's numbering.
        release: major and minor number of ONNX Runtime's version.
    """
    provider = {
        "device_id": str(device),
        "use_tf32": "0",  # its default rounds float32 products to 10 bits
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles
    }
    if options.memory is not None:
        provider["gpu_mem_limit"] = str(options.memory)
    if options.latency:
        provider["enable_cuda_graph"] = "1"
    if release >= CUDNN_IS_OPTIONAL:
        provider["enable_cudnn"] = "0"
    return provider


def session_entries(variant: Variant) -> dict[str, str]:
    """Session options of a variant on a GPU."""
    # Weights are allocated outside the arena, so that the arena can shrink.
    entries = {"session.use_device_allocator_for_initializers": "1"}
    if variant.batch == "packed":
        # Every operator of a packed graph has a CUDA kernel. Padded graphs compute some shapes on the CPU.
        entries["session.disable_cpu_ep_fallback"] = "1"
    return entries


def _check_memory(limit: int | None, weights: int) -> None:
    """Refuse a limit below the size of the weights. ONNX Runtime counts weights against its limit; where they
    exceed it, it enforces no limit at all (seen in 1.31.1)."""
    if limit is not None and limit <= weights:
        raise ConfigError(f"gpu_mem_limit is {limit} bytes; the weights alone take {weights}")


def require_libraries(provider: str) -> None:
    """Load the libraries that a provider is linked with.

    Raises:
        ProviderUnavailableError: naming what is missing, and what to install.
    """
    require_provider(provider)
    missing = [library.name for library in preload(provider) if library.found is None]
    if missing:
        found = "is not found" if len(missing) == 1 else "are not found"
        raise ProviderUnavailableError(
            provider,
            available_providers(),
            f"{', '.join(missing)} {found}: {remedy(missing)}; `gte doctor` shows everything it needs",
        )


def _load(graph: bytes, folder: Path, variant: Variant, options: CudaOptions, device: int) -> Any:
    return load_graph(
        graph,
        folder,
        variant,
        "cuda",
        1,
        provider_options=provider_options(options, device, release_of(runtime().__version__)),
        entries=session_entries(variant),
    )
