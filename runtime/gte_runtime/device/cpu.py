"""A session on the CPU. It runs one batch at a time for each caller and shares the processors fairly among
callers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..arrays import AnyArray, Float32
from ..errors import Cancelled, ForkedProcessError
from ..format.manifest import LOGITS, Variant
from ..inference.batch import Batch, padded_inputs, padding_mask, ragged_inputs
from ..inference.session import NOTHING, Outputs, Share
from ..machine.memory import give_back
from ..machine.native import close_at_exit, native
from ..machine.tasks import aside, in_main_thread
from .graph import check_signature, fetched, load_graph, outputs_of
from .runtime import new_run_options, translated
from .semaphore import ProcessorSemaphore

LARGE = 2048
"""Tokens of a run after which the arena's memory is returned to the system. Otherwise it would keep the peak
for ever; the next run has to touch its pages anew."""

Feeds = Mapping[str, AnyArray]


class Files(Protocol):
    """The weight files of a session, held open by whoever hashed them (`bundle.directory.OpenFiles`)."""

    def check(self) -> None:
        """Raises BundleError if a file was written to."""

    def check_names(self) -> None:
        """Raises BundleError if a file's name leads to another file than the open one."""


class CpuSession:
    """One graph in ONNX Runtime, with its weights mapped from files.

    Safe to use from several threads, which together never compute on more than `threads` processors. There
    are two sessions of ONNX Runtime: one with a thread pool over all processors and, once several runs go on
    at the same time, one with a single thread. Ctrl-C, `stop` and `close` stop a run between two operators.
    """

    def __init__(
        self,
        graph: bytes,
        folder: Path,
        variant: Variant,
        width: int,
        *,
        threads: int = 1,
        files: Files | None = None,
    ) -> None:
        """Load a graph.

        Args:
            graph: the ONNX file's bytes, already checked.
            folder: where its weight files lie.
            variant: what the manifest promises about the graph.
            width: values of a state, the second axis of `cls`.
            threads: processors to use.
            files: the weight files, to be looked at before and after every run, since they stay mapped.

        Raises:
            ProviderUnavailableError: ONNX Runtime is not installed.
            BundleVersionError: the graph needs a newer ONNX Runtime.
            BundleError: the graph does not load, or has other inputs and outputs than promised.
        """
        self.provider = "cpu"
        self._variant = variant
        self._pid = os.getpid()
        self._closed = False
        self._running: dict[Any, object] = {}
        # No Condition: a signal in the main thread can leave that locked for ever. And a signal's handler may
        # call `close`.
        self._lock = threading.RLock()
        self.workers = threads
        self._files = files
        self._processors = ProcessorSemaphore(self.workers)
        self._load_single: Callable[[], Any] = partial(load_graph, graph, folder, variant, "cpu", 1)
        self._single: Any = None
        self._single_lock = threading.Lock()
        self._session = load_graph(graph, folder, variant, "cpu", threads)
        check_signature(self._session, variant, width)
        close_at_exit(self)

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        if os.getpid() != self._pid:
            raise ForkedProcessError
        names = fetched(self._variant, states)
        padded = self._variant.batch == "padded"
        feeds: Feeds = padded_inputs(batch) if padded else ragged_inputs(batch)
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
        return outputs_of(cls, per_token, mask)

    def _run(self, names: Sequence[str], feeds: Feeds, least: int, most: int, owner: object) -> list[Float32]:
        run = partial(self._run_here, names, feeds, least, most, owner)
        return aside(run, "gte-run", partial(self.stop, owner)) if in_main_thread() else run()

    def _run_here(
        self, names: Sequence[str], feeds: Feeds, least: int, most: int, owner: object
    ) -> list[Float32]:
        taken = self._processors.acquire(least, most)
        try:
            self._check_files()
            session = self._single_threaded() if taken < self.workers > 1 else self._session
            outputs = self._run_on(session, names, feeds, owner)
            self._check_files()
            return outputs
        finally:
            self._processors.release(taken)

    def _single_threaded(self) -> Any:
        """Loaded when it is first needed: many programs only ever embed one text at a time."""
        with self._single_lock:
            if self._single is None and not self._closed:
                # ONNX Runtime opens weight files by name again.
                self._check_names()
                single = self._load_single()
                self._check_names()
                self._single = single
            return self._single

    def _check_files(self) -> None:
        files = self._files  # another thread may close the session meanwhile
        if files is not None:
            files.check()

    def _check_names(self) -> None:
        files = self._files
        if files is not None:
            files.check_names()

    def _run_on(self, session: Any, names: Sequence[str], feeds: Feeds, owner: object) -> list[Float32]:
        options = new_run_options()
        if feeds["input_ids"].size >= LARGE:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with self._lock:
            if self._closed:
                raise Cancelled("this engine is closed")
            self._running[options] = owner
        try:
            with native():
                return _outputs(session, names, feeds, options)
        finally:
            with self._lock:
                del self._running[options]

    def stop(self, owner: object) -> None:
        with self._lock:
            for options, whose in self._running.items():
                if whose is owner:
                    options.terminate = True

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # in a child of fork() a lock that another thread held is never released
        with self._lock:
            self._closed = True
            for options in self._running:
                options.terminate = True
        while self._running:
            time.sleep(0.002)
        self._session = self._single = self._files = None
        give_back()


def _outputs(session: Any, names: Sequence[str], feeds: Feeds, options: Any) -> list[Float32]:
    try:
        return list(session.run(names, dict(feeds), options))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base
        raise translated(error, bool(options.terminate)) from None
