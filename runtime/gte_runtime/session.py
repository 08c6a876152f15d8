"""The only import of onnxruntime: providers, threads, strictness, cancellation.

A session runs one batch. It knows nothing of texts, tokenizers or plans.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .batching import Batch, padded_inputs, padding_mask, ragged_inputs
from .errors import (
    BundleError,
    BundleVersionError,
    Cancelled,
    EngineError,
    ForkedProcessError,
    OutOfMemory,
    ProviderError,
    ProviderUnavailableError,
)
from .forks import outlive_forks
from .manifest import LOGITS
from .permits import Permits

if TYPE_CHECKING:
    from .manifest import Variant

Float32 = NDArray[np.float32]

Share = Literal["one", "any", "all", "extra"]
"""Of the processors, for one run: one; all if they are free and else one; all, after waiting for them; or a
share of those that others compute on, for a short run that should not wait for long ones."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
INPUT_TYPES = {
    "input_ids": "tensor(int64)",
    "attention_mask": "tensor(int64)",
    "position_ids": "tensor(int64)",
    "cu_seqlens": "tensor(int32)",
    "padded_index": "tensor(int64)",
    "flat_index": "tensor(int64)",
    "token_offset": "tensor(int32)",
    "uniform": "tensor(bool)",
}
"""Every input that `batching` can make."""

SILENT, WARNINGS = 4, 2
"""Severities of ONNX Runtime's logger; the second is its default."""

LARGE = 2048
"""Tokens of a run after which its memory goes back to the system. By itself the arena keeps the peak for ever;
given back, a later run has to touch its pages anew. What that costs was not measured."""

SIGNALS_EVERY = 0.5
"""Seconds after which a waiting main thread looks for signals. One that arrives just before it begins to wait does not wake it."""

EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""The session entry that takes int8 kernels without sums in 16 bits."""

NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"

# ONNX Runtime tells failures apart only in words.
MEMORY_WORDS = ("failed to allocate memory", "bad allocation", "std::bad_alloc", "out of memory", "smaller than requested bytes")
NO_DEVICE_WORDS = ("cuda failure", "invalid device id", "no kernel image", "disable_cpu_ep_fallback")
TOO_NEW_WORDS = ("opset", "ir_version", "ir version", "not a registered function/op", "no op registered", "is under development")


NOTHING: Float32 = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a run gives, float32."""

    cls: Float32
    """States of the first tokens, [B, H], not normalised."""
    token_weights: Float32
    """After ReLU, for all tokens of the batch in a row, [T]."""
    logits: Float32 = field(default_factory=lambda: NOTHING)
    """Of a reranker, [B]; its other two are empty."""


class Session(Protocol):
    """Runs one batch at a time for each caller. The engine knows nothing else about the device."""

    workers: int
    """Runs that may go on at the same time, each on one processor."""

    def run(self, batch: Batch, share: Share = "any", party: object = None) -> Outputs:
        """Raises EngineError and its kinds. `party` names runs that are to be stopped together."""

    def stop(self, party: object) -> None:
        """Stop the runs of a party; they raise Cancelled."""

    def close(self) -> None:
        """Stop what runs and give memory back. Further runs raise Cancelled."""


class OrtSession:
    """One graph in ONNX Runtime, whose weights are mapped from files beside it.

    Safe to use from several threads: together they never compute on more than `threads` processors.
    On CPU there are two sessions, one with all threads and, once runs go on side by side, one with a
    single thread. Ctrl-C and `close` stop a run between two operators.
    """

    def __init__(self, graph: bytes, folder: Path, variant: Variant, width: int, *, provider: str = "cpu", threads: int = 1) -> None:
        """Load a graph.

        Args:
            graph: the ONNX file's bytes, already checked.
            folder: where its weight files lie.
            variant: what the manifest promises about the graph.
            width: values of a state, the second axis of `cls`.
            provider: a key of PROVIDERS. There is no fallback to another one.
            threads: processors to use.

        Raises:
            ProviderUnavailableError: the provider is not in this installation, or did not load.
            BundleVersionError: the graph needs a newer ONNX Runtime.
            BundleError: the graph does not load, or has other inputs and outputs than promised.
        """
        self._variant = variant
        self._pid = os.getpid()
        self._closed = False
        self._running: dict[Any, object] = {}
        self._idle = threading.Condition()
        self.workers = threads if provider == "cpu" else 1
        self._permits = Permits(self.workers)
        self._load_narrow: Callable[[], Any] = partial(load_graph, graph, folder, variant, provider, 1)
        self._narrow: Any = None
        self._narrow_lock = threading.Lock()
        self._session = load_graph(graph, folder, variant, provider, threads)
        check_signature(self._session, variant, width)
        live.add(self)

    def run(self, batch: Batch, share: Share = "any", party: object = None) -> Outputs:
        if os.getpid() != self._pid:
            raise ForkedProcessError
        padded = self._variant.batch == "padded"
        feeds: Mapping[str, Any] = padded_inputs(batch) if padded else ragged_inputs(batch)
        least, most = {"one": (1, 1), "any": (1, self.workers), "all": (self.workers, self.workers), "extra": (0, 0)}[share]
        outputs = self._run(feeds, least, most, party or object())
        if self._variant.outputs == LOGITS:
            return Outputs(NOTHING, NOTHING, outputs[0])
        cls, weights = outputs
        return Outputs(cls, weights[padding_mask(batch)] if padded else weights)

    def _run(self, feeds: Mapping[str, Any], least: int, most: int, party: object) -> list[Float32]:
        # By number: current_thread() would keep an object for ever for each thread that Python did not start.
        if threading.get_ident() != threading.main_thread().ident:
            return self._run_here(feeds, least, most, party)
        # Python delivers Ctrl-C to the main thread only, and only between bytecodes: so the main
        # thread waits, and another one runs.
        result: list[Any] = []
        done = threading.Event()

        def attempt() -> None:
            result.append(self._attempt(feeds, least, most, party))
            done.set()

        threading.Thread(target=attempt, name="gte-run", daemon=True).start()
        try:
            # Not join(): interrupted, it takes the thread for ended (Python 3.11, https://github.com/python/cpython/issues/90882).
            while not done.wait(SIGNALS_EVERY):
                pass
        except BaseException:
            self.stop(party)
            while not done.wait(0.05):
                self.stop(party)  # again and again: a run that waits for its turn cannot be stopped yet
            raise
        outcome = result[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return list(outcome)

    def _attempt(self, *arguments: Any) -> list[Float32] | BaseException:
        try:
            return self._run_here(*arguments)
        except BaseException as error:  # noqa: BLE001 - carried to the waiting thread and raised there
            return error

    def _run_here(self, feeds: Mapping[str, Any], least: int, most: int, party: object) -> list[Float32]:
        taken = self._permits.take(least, most)
        try:
            return self._run_on(self._one_thread() if taken < self.workers > 1 else self._session, feeds, party)
        finally:
            self._permits.give(taken)

    def _one_thread(self) -> Any:
        """Loaded when it is first needed: many programs only ever embed one text at a time."""
        with self._narrow_lock:
            if self._narrow is None and not self._closed:
                self._narrow = self._load_narrow()
            return self._narrow

    def _run_on(self, session: Any, feeds: Mapping[str, Any], party: object) -> list[Float32]:
        import onnxruntime

        options = onnxruntime.RunOptions()  # one per run: a terminated one fails every later run
        if feeds["input_ids"].size >= LARGE:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with self._idle:
            if self._closed:
                raise Cancelled("this engine is closed")
            self._running[options] = party
        try:
            return list(session.run(self._variant.outputs, dict(feeds), options))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base
            raise translated(error, bool(options.terminate)) from None
        finally:
            with self._idle:
                self._running.pop(options, None)
                self._idle.notify_all()

    def stop(self, party: object) -> None:
        with self._idle:
            for options, whose in self._running.items():
                if whose is party:
                    options.terminate = True

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # a lock that another thread held when this process was forked is held here for ever
        with self._idle:
            self._closed = True
            for options in self._running:
                options.terminate = True
            self._idle.wait_for(lambda: not self._running)
            self._session = self._narrow = None


live: weakref.WeakSet[Any] = weakref.WeakSet()
"""Every open session: an interpreter must not leave while one runs."""


@atexit.register
def _stop_all() -> None:
    """Leaving the interpreter while a run is in flight aborts the process; so no run is left."""
    for session in list(live):
        session.close()


def available_providers() -> tuple[str, ...]:
    """Providers compiled into this installation; whether their libraries load shows when a session opens."""
    return _names(runtime().get_available_providers())


@cache
def pair_sums_overflow() -> bool:
    """Whether this processor's int8 products come out wrong unless exact ones are asked for.

    x86 without VNNI adds pairs of products in 16 bits, which overflows without a word. Asking for exact ones
    everywhere is no way out: it takes the kernels of old processors, ten times slower than AMX.
    """
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    graph = (Path(__file__).parent / "int8_probe.onnx").read_bytes()
    session = onnxruntime.InferenceSession(graph, options, providers=[PROVIDERS["cpu"]])
    side = session.get_inputs()[0].shape[1]
    (found,) = session.run(None, {"x": np.full((side, side), 255, np.uint8)})
    return not bool((found == 127 * 127 * side).all())


def load_graph(
    graph: bytes,
    folder: Path,
    variant: Variant,
    provider: str,
    threads: int,
    *,
    provider_options: Mapping[str, str] | None = None,
    entries: Mapping[str, str] | None = None,
) -> Any:
    """A session of ONNX Runtime on one provider and no other. `entries` are further session options."""
    onnxruntime = runtime()
    if _release(onnxruntime.__version__) < _release(variant.min_onnxruntime):
        raise BundleVersionError(
            f"{variant.graph} needs ONNX Runtime {variant.min_onnxruntime} or newer, this is {onnxruntime.__version__}; upgrade onnxruntime"
        )
    wanted = require_provider(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its messages hold absolute paths; failures reach us as exceptions
    options.enable_mem_pattern = False  # it keeps a plan for every shape ever seen
    if b"MatMulIntegerToFloat" in graph and pair_sums_overflow():
        options.add_session_config_entry(*EXACT_PRODUCTS)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    # A model may carry its own session options. Ours are not for a model to change.
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)
    try:
        session = onnxruntime.InferenceSession(
            graph,
            options,
            providers=[(wanted, dict(provider_options or {}))],
            # The CPU kernel of the fused operator is slower than its parts: 9 % of a run at 8x128 tokens.
            disabled_optimizers=["SkipLayerNormFusion"] if provider == "cpu" else None,
            # Without this the wrapper prints to stdout and goes on with another provider.
            enable_fallback=0,
        )
    except Exception as error:  # noqa: BLE001 - the same
        words = str(error).lower()
        if any(word in words for word in TOO_NEW_WORDS):
            raise BundleVersionError(
                f"{variant.graph} needs a newer ONNX Runtime than {onnxruntime.__version__}, although its manifest promises "
                f"that ORT >= {variant.min_onnxruntime} will do: {_clean(error)}"
            ) from None
        if any(word in words for word in MEMORY_WORDS):
            raise OutOfMemory(f"not enough memory to load {variant.graph}") from None
        if any(word in words for word in NO_DEVICE_WORDS):
            raise ProviderUnavailableError(
                provider, available_providers(), f"{_clean(error)}; `gte doctor` shows driver and GPUs"
            ) from None
        raise BundleError(f"{variant.graph} does not load: {_clean(error)}") from None
    if session.get_providers()[0] != wanted:
        raise ProviderUnavailableError(provider, available_providers(), "it gave no reason; `gte doctor` shows what it needs")
    return outlive_forks(session)


def runtime() -> Any:
    """ONNX Runtime, which is kept offline.

    From 1.29 on its wheels for Linux and macOS report graphs and sessions to Microsoft and keep a number for the machine in
    the user's cache, unless they are told not to before they are imported. The thread that does this also keeps a child of
    fork() from ending. Whoever wants the reports sets the variable to 0.
    """
    asked = os.environ.get(NO_TELEMETRY)
    try:
        if asked is None and "onnxruntime" not in sys.modules:
            os.environ[NO_TELEMETRY] = "1"
        import onnxruntime
    except ImportError:
        raise ProviderUnavailableError("cpu", (), "install ONNX Runtime: pip install 'gte-runtime[cpu]' or 'gte-runtime[gpu]'") from None
    finally:
        if asked is None:
            os.environ.pop(NO_TELEMETRY, None)  # the environment is the host's
    if asked != "0":
        onnxruntime.disable_telemetry_events()  # a host may have imported it before
    return onnxruntime


def require_provider(provider: str) -> str:
    """ONNX Runtime's name of a provider that this installation was compiled with."""
    available = runtime().get_available_providers()
    if provider not in PROVIDERS:
        raise ProviderError(f"provider is {provider!r}; known: {', '.join(PROVIDERS)}")
    wanted = PROVIDERS[provider]
    if wanted not in available:
        raise ProviderUnavailableError(provider, _names(available), _remedy(provider))
    return wanted


def _remedy(provider: str) -> str:
    if provider == "cpu":
        return "pip install 'gte-runtime[cpu]'"
    return "in an environment without the package onnxruntime: pip install 'gte-runtime[gpu]'; `gte doctor` shows what else is needed"


def _names(providers: list[str]) -> tuple[str, ...]:
    short = {long: name for name, long in PROVIDERS.items()}
    return tuple(short.get(name, name) for name in providers)


def check_signature(session: Any, variant: Variant, width: int) -> None:
    """Names are compared before the first run: a graph with others would fail later and less clearly."""
    inputs = tuple(i.name for i in session.get_inputs())
    outputs = tuple(o.name for o in session.get_outputs())
    if set(inputs) != set(variant.inputs) or outputs != variant.outputs or not set(inputs) <= INPUT_TYPES.keys():
        raise BundleError(
            f"{variant.graph}: expected inputs {', '.join(variant.inputs)} and outputs {', '.join(variant.outputs)}, "
            f"found {', '.join(inputs)} and {', '.join(outputs)}"
        )
    for value in session.get_inputs():
        if value.type != INPUT_TYPES[value.name] or any(isinstance(dim, int) for dim in value.shape):
            raise BundleError(
                f"{variant.graph}: expected {INPUT_TYPES[value.name]} of any size for {value.name}, "
                f"found {value.type} of shape {value.shape}"
            )
    for output in session.get_outputs():
        if output.type != "tensor(float)":
            raise BundleError(f"{variant.graph}: expected float32 from {output.name}, found {output.type}")
    found_width = session.get_outputs()[0].shape[-1]
    if outputs != LOGITS and found_width != width:
        raise BundleError(f"{variant.graph}: expected {width} values in each row of cls, found {found_width}")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence ONNX Runtime's logger of the whole process while a GPU session opens.

    It warns about plug-ins with every provider that is not one, and its failures, which name the machine, reach us as exceptions.
    """
    runtime().set_default_logger_severity(SILENT)
    try:
        yield
    finally:
        runtime().set_default_logger_severity(WARNINGS)


def new_run_options() -> Any:
    """One for each run: a terminated one fails every later run."""
    return runtime().RunOptions()


def translated(error: Exception, terminated: bool) -> Exception:
    if terminated:
        return Cancelled("the run was stopped")
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in MEMORY_WORDS):
        return OutOfMemory("out of memory during a run; lower max_tokens")
    return EngineError(f"ONNX Runtime failed: {_clean(error)}")


def _clean(error: Exception) -> str:
    """What ONNX Runtime says, without the places in its source and without directories."""
    reason = " ".join(str(error).rsplit("[ONNXRuntimeError] : ", 1)[-1].split())
    reason = re.sub(r"^\d+ : \w+ : |\S+\.(cc|h):\d+ \S+ ", "", reason)
    if failure := re.search(r"CUDA failure \d+: [^;]+", reason):
        return failure[0].strip()  # the rest names the machine
    reason = re.sub(r"[^\s'\"]*/([^\s/'\"]*)", r"\1", reason)
    return reason[:300] or type(error).__name__


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])
