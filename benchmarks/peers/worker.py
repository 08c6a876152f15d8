"""The protocol between driver and workers: JSON lines in both directions. Standard library and numpy only.

A worker loads one peer and waits for requests. `run` measures the milliseconds of one work and, on request,
writes the L2-normalised CLS rows to a file; reading and writing are not timed.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
PATIENCE = 900
"""Seconds to wait for an answer; after that the peer counts as failed."""


class IdPeer(Protocol):
    """Takes token ids; for texts the worker tokenizes."""

    def run(self, batch: Sequence[Sequence[int]]) -> Float32:
        """CLS rows of one batch. The peer pads it as needed."""


class TextPeer(Protocol):
    """Takes texts and tokenizes them itself."""

    def embed(self, texts: Sequence[str]) -> Float32:
        """CLS rows of one call."""


Peer = IdPeer | TextPeer


def padded(batch: Sequence[Sequence[int]], pad: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and mask of a batch, padded on the right to its longest text."""
    lengths = np.array([len(ids) for ids in batch])
    inside = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(inside.shape, pad, np.int64)
    ids[inside] = np.concatenate([np.asarray(each, np.int64) for each in batch])
    return ids, inside.astype(np.int64)


# The worker's side.


def serve(load: Callable[[dict[str, Any]], Peer], packages: Sequence[str]) -> None:
    """Answer requests until `quit`. Whatever else prints to stdout goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    state = _State(load, packages)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        try:
            answer = getattr(state, request["do"])(request)
        except Exception as error:  # noqa: BLE001 - sent to the driver, which reports it
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class _State:
    def __init__(self, load: Callable[[dict[str, Any]], Peer], packages: Sequence[str]) -> None:
        self._load, self._packages = load, packages
        self._peer: Any = None
        self._tokenizer: Any = None
        self._works: dict[str, Any] = {}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        self._peer = self._load(request["settings"])
        if not hasattr(self._peer, "embed"):
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(request["settings"]["tokenizer"])
        return {"seconds": time.perf_counter() - start, "notes": getattr(self._peer, "notes", {})}

    def works(self, request: dict[str, Any]) -> dict[str, Any]:
        self._works = json.loads(Path(request["path"]).read_text())
        return {"versions": {name: _version(name) for name in self._packages}}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        work = self._works[request["work"]] if "work" in request else {"texts": request["texts"]}
        groups = request.get("groups") or [list(range(len(work["texts"])))]
        start = time.perf_counter()
        parts = self._run(work, groups, request.get("input", "texts"))
        milliseconds = (time.perf_counter() - start) * 1e3
        if path := request.get("rows"):
            rows = np.concatenate(parts).astype(np.float32)
            ordered = np.empty_like(rows)
            ordered[np.concatenate([np.array(group) for group in groups])] = rows
            np.save(path, ordered / np.linalg.norm(ordered, axis=1, keepdims=True))
        return {"ms": milliseconds}

    def _run(self, work: dict[str, Any], groups: list[list[int]], what: str) -> list[Float32]:
        if what == "texts" and hasattr(self._peer, "embed"):
            texts = work["texts"]
            return [self._peer.embed([texts[row] for row in group]) for group in groups]
        ids = (
            [found.ids for found in self._tokenizer.encode_batch(work["texts"])]
            if what == "texts"
            else work["ids"]
        )
        return [self._peer.run([ids[row] for row in group]) for group in groups]

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {key: int(lines[key].split()[0]) / 1e3 for key in ("VmRSS", "VmHWM", "RssAnon", "RssFile")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "from this checkout"


# The driver's side.


class WorkerFailed(Exception):
    """A worker died, answered with an error, or did not answer."""


class Worker:
    """The driver's side of one peer in its own process, which waits on its stdin unless a request runs."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], folder: Path, log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
            )

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Raises WorkerFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
            line = self._process.stdout.readline() if ready else None
        except BrokenPipeError:
            line = ""
        if not line:
            self.stop()
            raise WorkerFailed(
                f"no answer in {PATIENCE} s" if line is None else f"the process ended: {last_line(self._log)}"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Processor time used so far, all threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def last_line(log: Path) -> str:
    """The end of a log, short enough for a table."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing in its log"
