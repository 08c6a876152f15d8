"""A lane is one GPU: a thread with a session of ONNX Runtime, a queue before it, and the buffers that its
runs use again.

It has a thread of its own because a captured CUDA graph belongs to the thread that captured it, and because
the main thread must stay free for signals. A GPU runs one batch at a time; the others wait in the lane's
queue.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import numpy as np

from ..arrays import AnyArray
from ..errors import Cancelled, EngineError, NoThread
from ..format.manifest import LOGITS, Variant
from ..inference.batch import Batch, packed_inputs, padded_inputs, padding_mask
from ..inference.session import NOTHING, Outputs
from ..machine.native import native
from ..machine.tasks import SIGNALS_EVERY, wait_for
from .graph import check_signature, fetched, outputs_of
from .runtime import new_run_options, runtime, translated
from .shapes import Shape, fill, rounded, smallest

BUFFERS = 64
"""Arrays on a device that one lane keeps for later runs of the same shape."""

NO_CAPTURE = "-1"
"""The `gpu_graph_id` of a run that neither captures nor replays a CUDA graph."""


@dataclass(frozen=True, slots=True)
class Captured:
    """One CUDA graph, and how long it took to capture."""

    shape: Shape
    milliseconds: float


def least_loaded(lanes: Sequence[Lane]) -> Lane:
    """The lane with the fewest tokens in it, the first of those."""
    return min(lanes, key=lambda lane: lane.load)


@dataclass(frozen=True, slots=True)
class Device:
    """Where arrays lie, as ONNX Runtime names it. The kind "cpu" is for tests without a GPU."""

    kind: str
    index: int

    @property
    def arena(self) -> str:
        """The device as `memory.enable_memory_arena_shrinkage` names it."""
        return f"{'gpu' if self.kind == 'cuda' else self.kind}:{self.index}"


@dataclass(slots=True, eq=False)
class _Job:
    batch: Batch
    owner: object
    options: Any
    states: bool
    done: threading.Event = field(default_factory=threading.Event)
    result: Outputs | BaseException | None = None


class Lane:
    """One device with its thread, session and queue."""

    def __init__(
        self,
        open_session: Callable[[], Any],
        device: Device,
        variant: Variant,
        width: int,
        shapes: Sequence[Shape],
    ) -> None:
        """Open the session in the lane's own thread, which then captures a CUDA graph of each shape."""
        self.captured: list[Captured] = []
        self.load = 0
        """Tokens of the batches that wait or run."""
        self._device, self._variant, self._width = device, variant, width
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._jobs: list[_Job] = []
        self._lock = threading.Lock()
        self._closed = False
        self._loaded = threading.Event()
        self._failure: BaseException | None = None
        name = f"gte-{device.kind}-{device.index}"
        self._thread = threading.Thread(
            target=self._work, args=(open_session, tuple(shapes)), name=name, daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:
            raise NoThread(str(error)) from None

    def wait_until_loaded(self) -> None:
        wait_for(self._loaded)
        if self._failure is not None:
            raise self._failure

    def run(self, batch: Batch, owner: object, thrifty: bool, *, states: bool = False) -> Outputs:
        """Run one batch when the ones before it are done. `thrifty` returns the arena's unused memory to the
        device."""
        options = new_run_options()
        if thrifty:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", self._device.arena)
        job = _Job(batch, owner, options, states)
        tokens = len(batch.input_ids)
        with self._lock:
            if self._closed:
                raise Cancelled("this engine is closed")
            self._jobs.append(job)
            self.load += tokens
        try:
            self._queue.put(job)
            self._wait(job)
        except BaseException:
            job.options.terminate = True
            with contextlib.suppress(EngineError):
                self._wait(job)
            raise
        finally:
            with self._lock:
                self._jobs.remove(job)
                self.load -= tokens
        if isinstance(job.result, BaseException):
            raise job.result
        assert job.result is not None
        return job.result

    def _wait(self, job: _Job) -> None:
        while not job.done.wait(SIGNALS_EVERY):
            if not self._thread.is_alive() and not job.done.is_set():
                if self._closed:
                    raise Cancelled("this engine is closed")
                raise EngineError(f"the thread of {self._device.arena} has ended; open the model again")

    def stop(self, owner: object) -> None:
        with self._lock:
            for job in self._jobs:
                if job.owner is owner:
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

    def _work(self, open_session: Callable[[], Any], shapes: Sequence[Shape]) -> None:
        try:
            with native():
                runner = _Runner(open_session(), self._device, self._variant, self._width)
                for shape in shapes:
                    started = time.perf_counter()
                    runner.capture(shape)
                    self.captured.append(Captured(shape, (time.perf_counter() - started) * 1e3))
        except BaseException as error:  # noqa: BLE001 - carried to the thread that waits for the lane
            self._failure = error
            self._closed = True
            return
        finally:
            self._loaded.set()
        while (job := self._queue.get()) is not None:
            try:
                with native():
                    job.result = runner.run(job.batch, job.options, job.states)
            except BaseException as error:  # noqa: BLE001 - carried to the thread that waits for the run
                job.result = error
            job.done.set()


class _Runner:
    """Runs batches in one lane's thread. Not safe to use from others."""

    def __init__(self, session: Any, device: Device, variant: Variant, width: int) -> None:
        check_signature(session, variant, width)
        self._session, self._device, self._variant, self._width = session, device, variant, width
        self._buffers = Buffers(device)
        self._graphs: dict[Shape, tuple[Any, Buffers, str]] = {}
        self._types = {
            output.name: np.dtype(np.float16 if output.type == "tensor(float16)" else np.float32)
            for output in session.get_outputs()
        }

    def run(self, batch: Batch, options: Any, states: bool = False) -> Outputs:
        if options.terminate:
            raise Cancelled("the run was stopped")
        names = fetched(self._variant, states)
        if self._variant.batch == "padded":
            return self._run_padded(names, batch, options)
        lengths = batch.lengths.tolist()
        shape = None if states else smallest(self._graphs, lengths)  # captured graphs do not give states
        if shape is None:
            if self._graphs:
                options.add_run_config_entry("gpu_graph_id", NO_CAPTURE)
            return self._run_packed(names, batch, rounded(lengths), options, None)
        options.add_run_config_entry("gpu_graph_id", self._graphs[shape][2])
        return self._run_packed(names, batch, shape, options, self._graphs[shape])

    def capture(self, shape: Shape) -> None:
        """Capture a CUDA graph of a shape: the first run with a new graph id does that. Its buffers must not
        move afterwards."""
        buffers = Buffers(self._device)
        graph = (self._session.io_binding(), buffers, str(len(self._graphs) + 1))
        # Only the shape is captured, so one text as long as the shape allows will do; `fill` adds the rest.
        ids = np.ones(min(shape.longest, shape.tokens), np.int64)
        batch = Batch(np.zeros(1, np.int64), ids, np.array([0, len(ids)], np.int32), False)
        options = new_run_options()
        options.add_run_config_entry("gpu_graph_id", graph[2])
        self._run_packed(fetched(self._variant, False), batch, shape, options, graph)
        self._graphs[shape] = graph

    def _run_packed(
        self,
        names: Sequence[str],
        batch: Batch,
        shape: Shape,
        options: Any,
        graph: tuple[Any, Buffers, str] | None,
    ) -> Outputs:
        filled = fill(batch, shape)
        binding, buffers, _ = graph or (None, self._buffers, "")
        feeds = packed_inputs(filled.batch, filled.longest)
        own = slice(filled.first, filled.first + len(batch.rows))
        # Copied: on the CPU these arrays are the buffers themselves, which the next run overwrites.
        if names == LOGITS:
            (logits,) = self._bound(feeds, {"logits": (shape.texts,)}, options, binding, buffers)
            return Outputs(NOTHING, NOTHING, logits[own].copy())
        shapes = {
            "cls": (shape.texts, self._width),
            "token_weights": (shape.tokens,),
            "token_states": (1, shape.tokens, self._width),
        }
        cls, weights, *states = self._bound(
            feeds, {name: shapes[name] for name in names}, options, binding, buffers
        )
        count = len(batch.input_ids)
        return outputs_of(
            cls[own].copy(), [weights[:count].copy(), *(each[:, :count].copy() for each in states)], None
        )

    def _run_padded(self, names: Sequence[str], batch: Batch, options: Any) -> Outputs:
        feeds, mask = padded_inputs(batch), padding_mask(batch)
        if names == LOGITS:
            (logits,) = self._bound(feeds, {"logits": (len(mask),)}, options, None, self._buffers)
            return Outputs(NOTHING, NOTHING, logits.copy())
        shapes = {
            "cls": (len(mask), self._width),
            "token_weights": mask.shape,
            "token_states": (*mask.shape, self._width),
        }
        cls, *per_token = self._bound(
            feeds, {name: shapes[name] for name in names}, options, None, self._buffers
        )
        return outputs_of(cls.copy(), per_token, mask)

    def _bound(
        self,
        feeds: Mapping[str, AnyArray],
        shapes: Mapping[str, tuple[int, ...]],
        options: Any,
        binding: Any,
        buffers: Buffers,
    ) -> list[AnyArray]:
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
    """Arrays on a device, kept by name and shape for later runs. Each captured CUDA graph has a set of its
    own that stays."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], Any] = OrderedDict()
        self.bound = False
        """They are bound to the inputs and outputs of an IO binding."""

    def holding(self, name: str, array: AnyArray) -> Any:
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
            value = runtime().OrtValue.ortvalue_from_shape_and_type(
                list(shape), dtype, self._device.kind, self._device.index
            )
            self._kept[key] = value
            if len(self._kept) > BUFFERS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
