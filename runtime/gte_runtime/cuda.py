"""ONNX Runtime on NVIDIA GPUs: one lane for each device, its buffers, and CUDA graphs for small requests.

A lane is a thread with a session. A thread of its own because a captured CUDA graph belongs to the
thread that captured it, and because the main thread must stay free for Ctrl-C. What runs at a time
is one batch on each device; the others wait in the lane.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .batching import Batch, halves, packed_inputs, padded_inputs, padding_mask
from .buckets import BUCKETS, Bucket, fill, rounded, smallest
from .errors import Cancelled, ConfigError, ForkedProcessError, OutOfMemory, ProviderUnavailableError
from .libraries import preload, remedy
from .manifest import LOGITS
from .session import (
    NOTHING,
    SIGNALS_EVERY,
    Outputs,
    Share,
    available_providers,
    check_signature,
    collected,
    live,
    load_graph,
    new_run_options,
    quiet,
    require_provider,
    runtime,
    translated,
    wanted,
)

if TYPE_CHECKING:
    from .manifest import Variant

CUDNN_IS_OPTIONAL = (1, 31)
"""The first release whose option `enable_cudnn` was seen to be understood. Our graphs need no cuDNN."""

BUFFERS = 64
"""Arrays on a device that are kept for the next run of their shape, in one lane."""

NO_CAPTURE = "-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaOptions:
    """How to use the GPUs of this machine."""

    devices: tuple[int, ...] = (0,)
    """Which of them, as CUDA counts them. Each gets a session of its own; runs go where least is waiting."""
    memory: int | None = None
    """Bytes that each device may give, weights included. None: all there are."""
    latency: bool = False
    """Capture CUDA graphs for small requests when opening."""
    buckets: tuple[Bucket, ...] = BUCKETS
    """Shapes to capture."""

    def __post_init__(self) -> None:
        devices = self.devices
        if not devices or len(set(devices)) != len(devices) or any(type(d) is not int or d < 0 for d in devices):
            raise ConfigError(f"devices is {devices!r}; expected different numbers from 0, such as (0, 1)")
        if self.memory is not None and (type(self.memory) is not int or self.memory < 1):
            raise ConfigError(f"gpu_mem_limit is {self.memory!r}; expected bytes, or None for no limit")


@dataclass(frozen=True, slots=True)
class Captured:
    """One CUDA graph, and how long it took to capture."""

    bucket: Bucket
    milliseconds: float


class CudaSession:
    """A `session.Session` on one or several GPUs.

    Out of memory, a batch is halved, and each half likewise until it fits, with the arena's unused memory
    given back first. Ctrl-C and `close` stop a run between two operators.
    """

    def __init__(self, graph: bytes, folder: Path, variant: Variant, width: int, options: CudaOptions = CudaOptions()) -> None:
        """Load a graph on every device, and capture what is to be captured.

        Raises:
            ProviderUnavailableError: the provider is not in this installation, a library is missing, or there is no such GPU.
            BundleVersionError, BundleError: as `session.OrtSession`.
            ConfigError: a variant that is not for GPUs, or a latency mode for one that cannot be captured.
        """
        if variant.batch == "ragged":
            raise ConfigError(f"{variant.graph} is for the CPU; name another variant for provider='cuda'")
        if options.latency and variant.batch != "packed":
            raise ConfigError("latency=True needs the variant cuda-fp16: only a packed graph has no part that a CUDA graph cannot hold")
        _check_memory(options.memory, sum((folder / file).stat().st_size for file in variant.weights))
        require_libraries("cuda")
        self._pid = os.getpid()
        self._variant = variant
        self._lanes: list[Lane] = []
        try:
            with quiet():
                for device in options.devices:
                    load = partial(_load, graph, folder, variant, options, device)
                    self._lanes.append(Lane(load, Device("cuda", device), variant, width, options.buckets if options.latency else ()))
                for lane in self._lanes:
                    lane.wait_until_loaded()
        except BaseException:
            _close(self._lanes)
            raise
        self.workers = len(self._lanes)
        live.add(self)
        weakref.finalize(self, _close, self._lanes)  # a lane's thread lives on its own: it would hold the device's memory for ever

    def report(self) -> dict[str, Any]:
        """The CUDA graphs that each device has, and how long capturing them took."""
        captured = [one for lane in self._lanes for one in lane.captured]
        shapes = [asdict(one.bucket) for one in self._lanes[0].captured]
        return {"shapes": shapes, "milliseconds": round(sum(one.milliseconds for one in captured), 1)}

    def run(self, batch: Batch, share: Share = "any", party: object = None, *, states: bool = False) -> Outputs:
        if os.getpid() != self._pid:
            raise ForkedProcessError
        return run_halved(partial(self._run, states=states), batch, party or object())

    def _run(self, batch: Batch, party: object, thrifty: bool, states: bool) -> Outputs:
        return least_loaded(self._lanes).run(batch, party, thrifty, states=states)

    def stop(self, party: object) -> None:
        for lane in self._lanes:
            lane.stop(party)

    def close(self) -> None:
        if os.getpid() == self._pid:
            _close(self._lanes)


def _close(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        lane.close()


def run_halved(run: Callable[[Batch, object, bool], Outputs], batch: Batch, party: object) -> Outputs:
    """Run a batch; where memory does not suffice, in two halves, and those likewise, down to single texts."""
    return _halved(run, batch, party, False)


def _halved(run: Callable[[Batch, object, bool], Outputs], batch: Batch, party: object, thrifty: bool) -> Outputs:
    try:
        return run(batch, party, thrifty)
    except OutOfMemory:
        if len(batch.rows) == 1:
            raise
    return joined([_halved(run, half, party, True) for half in halves(batch)])


def joined(parts: Sequence[Outputs]) -> Outputs:
    """Outputs of batches that follow one another."""
    return Outputs(**{each.name: np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Outputs)})


def least_loaded(lanes: Sequence[Lane]) -> Lane:
    """The lane with the fewest tokens in it, the first of those."""
    return min(lanes, key=lambda lane: lane.load)


@dataclass(frozen=True, slots=True)
class Device:
    """ONNX Runtime's name for where arrays lie. "cpu" serves tests."""

    kind: str
    index: int

    @property
    def arena(self) -> str:
        return f"{'gpu' if self.kind == 'cuda' else self.kind}:{self.index}"


@dataclass(slots=True, eq=False)
class _Job:
    batch: Batch
    party: object
    options: Any
    states: bool
    done: threading.Event = field(default_factory=threading.Event)
    result: Outputs | BaseException | None = None


class Lane:
    """One device: a thread, a session in it, a queue before it."""

    def __init__(self, open_session: Callable[[], Any], device: Device, variant: Variant, width: int, buckets: Sequence[Bucket]) -> None:
        """`open_session` is called in the lane's own thread, which captures the buckets then."""
        self.captured: list[Captured] = []
        self.load = 0
        """Tokens in it, waiting or running."""
        self._device, self._variant, self._width = device, variant, width
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._jobs: list[_Job] = []
        self._lock = threading.Lock()
        self._closed = False
        self._loaded = threading.Event()
        self._failure: BaseException | None = None
        name = f"gte-{device.kind}-{device.index}"
        self._thread = threading.Thread(target=self._work, args=(open_session, tuple(buckets)), name=name, daemon=True)
        self._thread.start()

    def wait_until_loaded(self) -> None:
        self._loaded.wait()
        if self._failure is not None:
            raise self._failure

    def run(self, batch: Batch, party: object, thrifty: bool, *, states: bool = False) -> Outputs:
        """Run one batch when its turn comes. `thrifty` gives unused memory back before and after."""
        options = new_run_options()
        if thrifty:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", self._device.arena)
        job = _Job(batch, party, options, states)
        tokens = len(batch.input_ids)
        with self._lock:
            if self._closed:
                raise Cancelled("this engine is closed")
            self._jobs.append(job)
            self.load += tokens
        try:
            self._queue.put(job)
            while not job.done.wait(SIGNALS_EVERY):
                pass
        except BaseException:
            job.options.terminate = True
            job.done.wait()
            raise
        finally:
            with self._lock:
                self._jobs.remove(job)
                self.load -= tokens
        if isinstance(job.result, BaseException):
            raise job.result
        assert job.result is not None
        return job.result

    def stop(self, party: object) -> None:
        with self._lock:
            for job in self._jobs:
                if job.party is party:
                    job.options.terminate = True

    def close(self) -> None:
        with self._lock:
            first, self._closed = not self._closed, True
            for job in self._jobs:
                job.options.terminate = True
        if first:
            self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self, open_session: Callable[[], Any], buckets: Sequence[Bucket]) -> None:
        try:
            runner = _Runner(open_session(), self._device, self._variant, self._width)
            for bucket in buckets:
                started = time.perf_counter()
                runner.capture(bucket)
                self.captured.append(Captured(bucket, (time.perf_counter() - started) * 1e3))
        except BaseException as error:  # noqa: BLE001 - carried to the thread that waits for the lane
            self._failure = error
            self._closed = True
            return
        finally:
            self._loaded.set()
        while (job := self._queue.get()) is not None:
            try:
                job.result = runner.run(job.batch, job.options, job.states)
            except BaseException as error:  # noqa: BLE001 - carried to the thread that waits for the run
                job.result = error
            job.done.set()


class _Runner:
    """What one lane's thread does. Not safe to share."""

    def __init__(self, session: Any, device: Device, variant: Variant, width: int) -> None:
        check_signature(session, variant, width)
        self._session, self._device, self._variant, self._width = session, device, variant, width
        self._buffers = Buffers(device)
        self._graphs: dict[Bucket, tuple[Any, Buffers, str]] = {}
        halves = {"tensor(float16)": np.dtype(np.float16)}
        self._types = {output.name: halves.get(output.type, np.dtype(np.float32)) for output in session.get_outputs()}

    def run(self, batch: Batch, options: Any, states: bool = False) -> Outputs:
        if options.terminate:
            raise Cancelled("the run was stopped")
        names = wanted(self._variant, states)
        if self._variant.batch == "padded":
            return self._run_padded(names, batch, options)
        lengths = batch.lengths.tolist()
        bucket = None if states else smallest(self._graphs, lengths)  # captured graphs do not give states
        if bucket is None:
            if self._graphs:
                options.add_run_config_entry("gpu_graph_id", NO_CAPTURE)
            return self._run_packed(names, batch, rounded(lengths), options, None)
        options.add_run_config_entry("gpu_graph_id", self._graphs[bucket][2])
        return self._run_packed(names, batch, bucket, options, self._graphs[bucket])

    def capture(self, bucket: Bucket) -> None:
        """The first run of a graph id captures; its addresses are bound for good."""
        buffers = Buffers(self._device)
        graph = (self._session.io_binding(), buffers, str(len(self._graphs) + 1))
        # One text as long as the bucket allows and the filling behind it: nothing but the shape is captured.
        ids = np.ones(min(bucket.longest, bucket.tokens), np.int64)
        batch = Batch(np.zeros(1, np.int64), ids, np.array([0, len(ids)], np.int32), False)
        options = new_run_options()
        options.add_run_config_entry("gpu_graph_id", graph[2])
        self._run_packed(wanted(self._variant, False), batch, bucket, options, graph)
        self._graphs[bucket] = graph

    def _run_packed(
        self, names: Sequence[str], batch: Batch, bucket: Bucket, options: Any, graph: tuple[Any, Buffers, str] | None
    ) -> Outputs:
        filled = fill(batch, bucket)
        binding, buffers, _ = graph or (None, self._buffers, "")
        feeds = packed_inputs(filled.batch, filled.longest)
        own = slice(filled.first, filled.first + len(batch.rows))
        # Copies: an array on the CPU is the buffer itself, which the next run writes to.
        if names == LOGITS:
            (logits,) = self._bound(feeds, {"logits": (bucket.texts,)}, options, binding, buffers)
            return Outputs(NOTHING, NOTHING, logits[own].copy())
        shapes = {"cls": (bucket.texts, self._width), "token_weights": (bucket.tokens,), "token_states": (1, bucket.tokens, self._width)}
        cls, weights, *states = self._bound(feeds, {name: shapes[name] for name in names}, options, binding, buffers)
        count = len(batch.input_ids)
        return collected(cls[own].copy(), [weights[:count].copy(), *(each[:, :count].copy() for each in states)], None)

    def _run_padded(self, names: Sequence[str], batch: Batch, options: Any) -> Outputs:
        feeds, mask = padded_inputs(batch), padding_mask(batch)
        if names == LOGITS:
            (logits,) = self._bound(feeds, {"logits": (len(mask),)}, options, None, self._buffers)
            return Outputs(NOTHING, NOTHING, logits.copy())
        shapes = {"cls": (len(mask), self._width), "token_weights": mask.shape, "token_states": (*mask.shape, self._width)}
        cls, *per_token = self._bound(feeds, {name: shapes[name] for name in names}, options, None, self._buffers)
        return collected(cls.copy(), per_token, mask)

    def _bound(
        self, feeds: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]], options: Any, binding: Any, buffers: Buffers
    ) -> list[NDArray[Any]]:
        try:
            inputs = {name: buffers.holding(name, array) for name, array in feeds.items()}
            outputs = [buffers.empty(name, shape, self._types[name]) for name, shape in shapes.items()]
            if binding is None or not buffers.bound:
                binding = binding or self._session.io_binding()
                for name, value in inputs.items():
                    binding.bind_ortvalue_input(name, value)
                for name, value in zip(shapes, outputs, strict=True):
                    binding.bind_ortvalue_output(name, value)
                buffers.bound = True
            self._session.run_with_iobinding(binding, options)
            return [value.numpy() for value in outputs]
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base
            self._buffers.clear()
            raise translated(error, bool(options.terminate)) from None


class Buffers:
    """Arrays on a device, kept by name and shape. A captured graph has some of its own, which never change."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], Any] = OrderedDict()
        self.bound = False
        """A binding holds them."""

    def holding(self, name: str, array: NDArray[Any]) -> Any:
        """An array on the device with these values."""
        array = np.ascontiguousarray(array)
        value = self._recall(name, array.shape, array.dtype)
        value.update_inplace(array)
        return value

    def empty(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return self._recall(name, shape, dtype)

    def clear(self) -> None:
        self._kept.clear()

    def _recall(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        key = (name, tuple(shape))
        if key not in self._kept:
            value = runtime().OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, self._device.kind, self._device.index)
            self._kept[key] = value
            if len(self._kept) > BUFFERS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def provider_options(options: CudaOptions, device: int, release: tuple[int, ...]) -> dict[str, str]:
    """What the CUDA provider is told. Pure; every value is a string, as ONNX Runtime wants them."""
    told = {
        "device_id": str(device),
        "use_tf32": "0",  # its default rounds float32 products to 10 bits
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles
    }
    if options.memory is not None:
        told["gpu_mem_limit"] = str(options.memory)
    if options.latency:
        told["enable_cuda_graph"] = "1"
    if release >= CUDNN_IS_OPTIONAL:
        told["enable_cudnn"] = "0"
    return told


def session_entries(variant: Variant) -> dict[str, str]:
    """Session options of a variant on a GPU."""
    entries = {"session.use_device_allocator_for_initializers": "1"}  # weights outside the arena, so that it can shrink
    if variant.batch == "packed":
        # Every operator of it has a CUDA kernel. In padded graphs some arithmetic on shapes belongs on the CPU.
        entries["session.disable_cpu_ep_fallback"] = "1"
    return entries


def _check_memory(limit: int | None, weights: int) -> None:
    """ONNX Runtime counts weights against the limit, and with less left than nothing it holds no limit at all (1.31.1)."""
    if limit is not None and limit <= weights:
        raise ConfigError(f"gpu_mem_limit is {limit} bytes; the weights alone take {weights}")


def require_libraries(provider: str) -> None:
    """Load what the provider is linked with.

    Raises:
        ProviderUnavailableError: naming what is missing, and what to install.
    """
    require_provider(provider)
    missing = [library.name for library in preload(provider) if library.found is None]
    if missing:
        found = "is not found" if len(missing) == 1 else "are not found"
        raise ProviderUnavailableError(
            provider, available_providers(), f"{', '.join(missing)} {found}: {remedy(missing)}; `gte doctor` shows everything it needs"
        )


def _load(graph: bytes, folder: Path, variant: Variant, options: CudaOptions, device: int) -> Any:
    release = tuple(int(part) for part in runtime().__version__.split("+")[0].split(".")[:2])
    return load_graph(
        graph, folder, variant, "cuda", 1,
        provider_options=provider_options(options, device, release), entries=session_entries(variant),
    )  # fmt: skip
