"""TensorRT through ONNX Runtime. TensorRT engines are built in advance by `gte engine build`; opening a model
builds none.

Building takes minutes, and its result depends on the bundle, ONNX Runtime, TensorRT, driver, GPU and shapes.
So each TensorRT engine is stored as a context model (an ONNX file with one node that holds it) in a folder
whose name is a hash of all of these. A context model is either loaded or refused; an engine in ONNX Runtime's
own cache would be rebuilt without notice.

This module has not been run against TensorRT itself: its libraries were not available where it was written.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import (
    ConfigError,
    EngineError,
    EngineMissing,
    ForkedProcessError,
    GteError,
    OutputError,
    ProviderUnavailableError,
)
from ..inference.batch import Batch, halves, make_batch, padded_inputs
from ..inference.halving import all_or_error, joined, run_halved
from ..inference.session import Outputs, Share
from ..machine.cache import distrust, make_directory, place
from ..machine.gpus import devices
from ..machine.native import close_at_exit, native
from .cuda import CudaOptions, out_of_memory, require_libraries
from .graph import load_graph
from .lanes import Device, Lane, least_loaded
from .runtime import available_providers, runtime

if TYPE_CHECKING:
    from ..format.manifest import Variant

CONTEXT = "context.onnx"
ABOUT = "about.json"


@dataclass(frozen=True, slots=True, order=True)
class Profile:
    """Shapes that one TensorRT engine runs: 1 to `texts` texts, padded to 1 to `longest` tokens. It is tuned
    for the largest."""

    longest: int
    texts: int

    def __str__(self) -> str:
        return f"{self.texts}x{self.longest}"

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Raises ConfigError when it is not like 32x128."""
        found = re.fullmatch(r"(\d{1,5})x(\d{1,6})", text)
        if not found or 0 in (texts := int(found[1]), longest := int(found[2])):
            raise ConfigError(f"profile {text[:40]!r}; expected texts x tokens, such as 32x128")
        return cls(longest=longest, texts=texts)

    def holds(self, texts: int, longest: int) -> bool:
        return texts <= self.texts and longest <= self.longest


PROFILES = (Profile(longest=32, texts=32), Profile(longest=128, texts=32), Profile(longest=512, texts=16))
"""What is built by default. Each TensorRT engine holds all weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a TensorRT engine depends on besides its profile. It is used only where all of it is the same."""

    bundle: str
    variant: str
    onnxruntime: str
    tensorrt: str
    driver: str
    gpu: str

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Raises BundleError where another user could have written it: TensorRT runs what is in an engine."""
        return place("engines", self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSource:
    """What TensorRT engines are built from: a variant of a bundle."""

    model: str
    """The model's name, for messages."""
    digest: str
    """SHA-256 of the bundle's manifest."""
    directory: Path
    """The bundle's directory, where the weight files lie."""
    graph: bytes
    variant: Variant
    width: int
    """Values of a state."""


class TensorRtSession:
    """A `Session` on TensorRT engines that were built before."""

    def __init__(self, source: EngineSource, options: CudaOptions) -> None:
        """Load every TensorRT engine that was built for this bundle on these devices.

        Raises:
            EngineMissing: none was built; the message says how to do it.
            ProviderUnavailableError: TensorRT, a library or the device is missing.
        """
        self.provider = "tensorrt"
        _check_variant(source.variant)
        require_libraries("cuda")
        require_libraries("tensorrt")
        self._pid = os.getpid()
        self._lanes: dict[Profile, list[Lane]] = {}
        engines = {device: _built(facts(source, device), source) for device in options.devices}
        try:
            for device, built in engines.items():
                for profile, file in built.items():
                    lane = Lane(
                        _loader(file, source, device),
                        Device("cuda", device),
                        source.variant,
                        source.width,
                        (),
                    )
                    self._lanes.setdefault(profile, []).append(lane)
            for lanes in self._lanes.values():
                for lane in lanes:
                    lane.wait_until_loaded()
        except BaseException:
            self.close()
            raise
        self.workers = len(options.devices)
        close_at_exit(self)

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        if os.getpid() != self._pid:
            raise ForkedProcessError
        owner = owner or object()

        def run(part: Batch, halved: bool) -> Outputs:
            profile = min(p for p in self._lanes if p.holds(len(part.rows), int(part.lengths.max())))
            return least_loaded(self._lanes[profile]).run(part, owner, halved, states=states)

        return joined(
            [all_or_error(run_halved(run, part, out_of_memory)) for part in pieces(batch, self._lanes)]
        )

    def stop(self, owner: object) -> None:
        for lanes in self._lanes.values():
            for lane in lanes:
                lane.stop(owner)

    def close(self) -> None:
        if os.getpid() == self._pid:
            for lanes in self._lanes.values():
                for lane in lanes:
                    lane.close()


def pieces(batch: Batch, profiles: Iterable[Profile]) -> list[Batch]:
    """A batch, halved until each part fits a profile.

    Raises:
        EngineError: a text is longer than every profile allows.
    """
    profiles = tuple(profiles)
    if any(profile.holds(len(batch.rows), int(batch.lengths.max())) for profile in profiles):
        return [batch]
    if len(batch.rows) == 1:
        longest, limit = len(batch.input_ids), max(profile.longest for profile in profiles)
        raise EngineError(
            f"a text of {longest} tokens, and the TensorRT engines take at most {limit}; "
            f"build one with `gte engine build --profile 1x{longest}`, or pass max_length={limit}"
        )
    return [piece for half in halves(batch) for piece in pieces(half, profiles)]


def facts(source: EngineSource, device: int) -> Facts:
    """What an engine of this source would depend on here. Raises ProviderUnavailableError when there is no
    such GPU."""
    found = devices()
    gpu = next((gpu for gpu in found.gpus if gpu.index == device), None)
    if gpu is None:
        others = f"there is no GPU {device}, only {', '.join(str(one.index) for one in found.gpus)}"
        raise ProviderUnavailableError("tensorrt", available_providers(), found.problem or others)
    return Facts(
        bundle=source.digest,
        variant=source.variant.graph,
        onnxruntime=runtime().__version__,
        tensorrt=tensorrt_version() or "unknown",
        driver=found.driver or "unknown",
        gpu=f"{gpu.name}, {gpu.capability}",
    )


def tensorrt_version() -> str | None:
    """The version of the TensorRT library that can be loaded; None where there is none."""
    try:
        number = int(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    except (OSError, AttributeError):
        return None
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def build_engines(
    source: EngineSource, profiles: Sequence[Profile], device: int, say: Callable[[str], None]
) -> Path:
    """Build the TensorRT engines that do not exist yet. Each gets its final name when it is complete.

    Args:
        source: a variant of a bundle.
        profiles: one engine is built for each.
        device: the GPU to build for, in CUDA's numbering.
        say: called with a line for each step.

    Returns:
        The folder of the engines.

    Raises:
        ProviderUnavailableError: TensorRT, a library or the device is missing.
        OutputError: the folder cannot be written.
    """
    _check_variant(source.variant)
    require_libraries("cuda")
    require_libraries("tensorrt")
    known = facts(source, device)
    try:
        make_directory(known.folder.parent)
        make_directory(known.folder)
        for profile in profiles:
            target = known.folder / str(profile)
            if (target / ABOUT).exists():
                say(f"{profile}: there already")
                continue
            with tempfile.TemporaryDirectory(prefix=f".{profile}.", dir=known.folder) as temporary:
                staged = Path(temporary) / "engine"
                staged.mkdir(mode=0o700)
                say(f"{profile}: building, which takes minutes")
                _build(source, profile, device, staged, known.folder / "timing")
                (staged / ABOUT).write_text(
                    json.dumps({**asdict(known), "profile": str(profile)}, indent=1), encoding="utf-8"
                )
                for file in staged.iterdir():
                    file.chmod(0o600)  # whatever the umask, or `_built` would not trust it
                shutil.rmtree(target, ignore_errors=True)
                staged.rename(target)
            say(f"{profile}: done")
    except GteError:
        raise  # some errors of this package are OSErrors, too
    except OSError as error:
        raise OutputError(f"the engine could not be written: {error.strerror or error}") from None
    return known.folder


def build_options(profile: Profile, device: int, context: Path, timing: Path) -> dict[str, str]:
    """Options of the TensorRT provider with which it builds an engine. Pure."""
    inputs = ("input_ids", "attention_mask")
    largest = ",".join(f"{name}:{profile}" for name in inputs)
    return {
        "device_id": str(device),
        "trt_fp16_enable": "1",
        "trt_profile_min_shapes": ",".join(f"{name}:1x1" for name in inputs),
        "trt_profile_opt_shapes": largest,
        "trt_profile_max_shapes": largest,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(timing),
        "trt_dump_ep_context_model": "1",
        "trt_ep_context_file_path": str(context),
        "trt_ep_context_embed_mode": "1",
    }


def _build(source: EngineSource, profile: Profile, device: int, folder: Path, timing: Path) -> None:
    timing.mkdir(exist_ok=True, mode=0o700)
    session = load_graph(
        source.graph,
        source.directory,
        source.variant,
        "tensorrt",
        1,
        provider_options=build_options(profile, device, folder / CONTEXT, timing),
    )
    ids = [np.ones(profile.longest, np.int64)] * profile.texts
    batch = make_batch(np.arange(profile.texts), ids, 1)
    with native():
        session.run(None, padded_inputs(batch))  # the provider builds some engines at the first run only
    if not (folder / CONTEXT).is_file():
        raise EngineError(
            "TensorRT ran and wrote no engine; it did not accept the variant's graph as a whole"
        )


def _loader(file: Path, source: EngineSource, device: int) -> Callable[[], Any]:
    def load() -> Any:
        return load_graph(
            file.read_bytes(),
            source.directory,
            source.variant,
            "tensorrt",
            1,
            provider_options={"device_id": str(device)},
        )

    return load


def _built(known: Facts, source: EngineSource) -> dict[Profile, Path]:
    """The context model of each profile. `about.json` is the last file that a build writes."""
    found = {
        Profile.parse(about.parent.name): about.parent / CONTEXT
        for about in known.folder.glob(f"[0-9]*x*/{ABOUT}")
        if distrust(about.parent) is None
    }
    if not found:
        raise EngineMissing(
            f"there is no TensorRT engine for {source.model} on {known.gpu} with TensorRT {known.tensorrt}, "
            f"ONNX Runtime {known.onnxruntime} and driver {known.driver}; "
            f"build it: gte engine build {source.directory.name}"
        )
    return found


def _check_variant(variant: Variant) -> None:
    if variant.batch != "padded":
        raise ConfigError(
            f"TensorRT runs padded graphs of standard operators, and {variant.graph} is none; "
            "build the variant portable-fp16"
        )
