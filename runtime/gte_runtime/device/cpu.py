"""The only import of onnxruntime: providers, threads, strictness, cancellation.

A session runs one batch. It knows nothing of texts, tokenizers or plans.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arrays import Float32
from ..errors import (
    Cancelled,
    ForkedProcessError,
)
from ..format.manifest import LOGITS
from ..inference.batch import Batch, padded_inputs, padding_mask, ragged_inputs
from ..machine.memory import give_back
from .semaphore import ProcessorSemaphore

if TYPE_CHECKING:
    from ..format.manifest import Variant
from ..inference.session import NOTHING, Outputs, Share
from .graph import check_signature, collected, load_graph, wanted
from .live import live
from .runtime import translated

LARGE = 2048
"""Tokens of a run after which its memory goes back to the system. By itself the arena keeps the peak for ever;
given back, a later run has to touch its pages anew."""

SIGNALS_EVERY = 0.5
"""Seconds after which a waiting main thread looks for signals. One that arrives just before it begins to wait does not wake it."""


class CpuSession:
    """One graph in ONNX Runtime, whose weights are mapped from files beside it.

    Safe to use from several threads: together they never compute on more than `threads` processors.
    On CPU there are two sessions, one with all threads and, once runs go on side by side, one with a
    single thread. Ctrl-C and `close` stop a run between two operators.
    """

    def __init__(
        self,
        graph: bytes,
        folder: Path,
        variant: Variant,
        width: int,
        *,
        provider: str = "cpu",
        threads: int = 1,
    ) -> None:
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
        self.provider = provider
        self._variant = variant
        self._pid = os.getpid()
        self._closed = False
        self._running: dict[Any, object] = {}
        self._idle = threading.Condition()
        self.workers = threads if provider == "cpu" else 1
        self._processors = ProcessorSemaphore(self.workers)
        self._load_narrow: Callable[[], Any] = partial(load_graph, graph, folder, variant, provider, 1)
        self._narrow: Any = None
        self._narrow_lock = threading.Lock()
        self._session = load_graph(graph, folder, variant, provider, threads)
        check_signature(self._session, variant, width)
        live.add(self)

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        if os.getpid() != self._pid:
            raise ForkedProcessError
        names = wanted(self._variant, states)
        padded = self._variant.batch == "padded"
        feeds: Mapping[str, Any] = padded_inputs(batch) if padded else ragged_inputs(batch)
        least, most = {
            "one": (1, 1),
            "any": (1, self.workers),
            "all": (self.workers, self.workers),
            "extra": (0, 0),
        }[share]
        outputs = self._run(names, feeds, least, most, owner or object())
        if names == LOGITS:
            return Outputs(NOTHING, NOTHING, outputs[0])
        mask = padding_mask(batch) if padded else None
        cls, *per_token = outputs
        return collected(cls, per_token, mask)

    def _run(
        self, names: Sequence[str], feeds: Mapping[str, Any], least: int, most: int, owner: object
    ) -> list[Float32]:
        # By number: current_thread() would keep an object for ever for each thread that Python did not start.
        if threading.get_ident() != threading.main_thread().ident:
            return self._run_here(names, feeds, least, most, owner)
        # Python delivers Ctrl-C to the main thread only, and only between bytecodes: so the main
        # thread waits, and another one runs.
        result: list[Any] = []
        done = threading.Event()

        def attempt() -> None:
            result.append(self._attempt(names, feeds, least, most, owner))
            done.set()

        threading.Thread(target=attempt, name="gte-run", daemon=True).start()
        try:
            # Not join(): interrupted, it takes the thread for ended (Python 3.11, https://github.com/python/cpython/issues/90882).
            while not done.wait(SIGNALS_EVERY):
                pass
        except BaseException:
            self.stop(owner)
            while not done.wait(0.05):
                self.stop(owner)  # again and again: a run that waits for its turn cannot be stopped yet
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

    def _run_here(
        self, names: Sequence[str], feeds: Mapping[str, Any], least: int, most: int, owner: object
    ) -> list[Float32]:
        taken = self._processors.acquire(least, most)
        try:
            return self._run_on(
                self._one_thread() if taken < self.workers > 1 else self._session, names, feeds, owner
            )
        finally:
            self._processors.release(taken)

    def _one_thread(self) -> Any:
        """Loaded when it is first needed: many programs only ever embed one text at a time."""
        with self._narrow_lock:
            if self._narrow is None and not self._closed:
                self._narrow = self._load_narrow()
            return self._narrow

    def _run_on(
        self, session: Any, names: Sequence[str], feeds: Mapping[str, Any], owner: object
    ) -> list[Float32]:
        import onnxruntime

        options = onnxruntime.RunOptions()  # one per run: a terminated one fails every later run
        if feeds["input_ids"].size >= LARGE:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with self._idle:
            if self._closed:
                raise Cancelled("this engine is closed")
            self._running[options] = owner
        try:
            return list(session.run(names, dict(feeds), options))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base
            raise translated(error, bool(options.terminate)) from None
        finally:
            with self._idle:
                self._running.pop(options, None)
                self._idle.notify_all()

    def stop(self, owner: object) -> None:
        with self._idle:
            for options, whose in self._running.items():
                if whose is owner:
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
        give_back()
