"""Spoils a bundle, and looks at how it is then refused."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from gte_runtime import Embedder, GteError

TEXT = "Where does the river meet the sea? 北京 ½"
PATIENCE = 20.0
"""Seconds after which a watchdog frees what hangs. No test waits for it unless the code is broken."""


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite manifest.json, as whoever means harm would, with a checksum to match."""
    path = bundle / "manifest.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_bytes(signed(raw))


def make_old(bundle: Path) -> None:
    """Make the manifest one of format 1, without a checksum, as gte-runtime 0.1.0 wrote it."""
    path = bundle / "manifest.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["sha256"]
    old = json.dumps({**raw, "format": 1}, ensure_ascii=False, indent=1) + "\n"
    path.write_text(old, encoding="utf-8")


def signed(raw: dict[str, Any]) -> bytes:
    """A manifest of these fields with its checksum, as models/README.md defines it."""
    fields = {name: value for name, value in raw.items() if name != "sha256"}
    text = json.dumps({**fields, "sha256": "0" * 64})
    before, _, after = text.rpartition("0" * 64)
    return f"{before}{hashlib.sha256(text.encode()).hexdigest()}{after}".encode()


def replace(bundle: Path, name: str, data: bytes) -> None:
    """Put another file in place of one, as a broken download would."""
    (bundle / name).unlink()
    (bundle / name).write_bytes(data)


def replace_signed(bundle: Path, name: str, data: bytes) -> None:
    """Put another file in place of one and its hash into the manifest, so that only what it holds can be
    refused.
    """
    replace(bundle, name, data)
    record = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(bundle, lambda raw: raw["files"].update({name: record}))


@contextmanager
def no_hanging(*pipes: Path) -> Iterator[None]:
    """Whoever waits for the other end of these pipes is freed after a while, and the test fails."""
    freed: list[Path] = []

    def free() -> None:
        for pipe in pipes:
            # Opening the writing end lets a reader go on, native code included.
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
            freed.append(pipe)

    watchdog = threading.Timer(PATIENCE, free)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        watchdog.join()
    assert not freed, "it waited for a pipe"


class Refusal:
    """Opens a bad bundle.

    It must fail as told, and again, leave nothing behind, and the next good bundle must open and work.
    """

    def __init__(self, good: Path, vector: NDArray[np.float32], hidden: Path) -> None:
        self.good = good
        self.vector = vector
        self.hidden = hidden
        """A directory whose path must not show in a message."""

    def __call__(self, bundle: Path | str, kind: type[GteError], *words: str, **options: Any) -> GteError:
        """Open with `options`; expect exactly `kind`, with all `words` in its message. Returns the error."""
        before = _left_behind()
        with pytest.raises(GteError) as caught:
            Embedder.open(bundle, threads=1, **options)
        error, message = caught.value, str(caught.value)
        del caught
        assert type(error) is kind, message
        for word in words:
            assert word in message, message
        assert str(self.hidden) not in message, message
        error.__traceback__ = None
        # What was hashed is remembered; that it was refused must not be forgotten over it.
        with pytest.raises(kind) as again:
            Embedder.open(bundle, threads=1, **options)
        assert type(again.value) is kind, str(again.value)
        del again
        self._good_one_works()
        if _more(_left_behind(), before):
            gc.collect()
        assert not _more(_left_behind(), before)
        return error

    def _good_one_works(self) -> None:
        with Embedder.open(self.good, threads=1) as gte:
            np.testing.assert_array_equal(vector_of(gte), self.vector)


def vector_of(gte: Embedder) -> NDArray[np.float32]:
    dense = gte.encode(TEXT, sparse=False).dense
    assert dense is not None
    return dense


def _more(now: tuple[int, int], before: tuple[int, int]) -> bool:
    """Fewer is no fault: an earlier test's may have gone meanwhile."""
    return now[0] > before[0] or now[1] > before[1]


def _left_behind() -> tuple[int, int]:
    """Open descriptors and Python threads."""
    return psutil.Process().num_fds(), threading.active_count()
