"""gte-runtime: token ids go to its engine, texts through `Embedder.encode`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peers.worker import Float32, serve


class Gte:
    """Token ids are planned and run as `encode` does it after tokenizing."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from gte_runtime import Embedder

        self._embedder = Embedder.open(
            Path(settings["bundle"]),
            variant=settings["variant"],
            threads=settings["threads"],
            provider=settings.get("provider", "cpu"),
            latency=settings.get("latency", False),
        )
        self.notes = dict(self._embedder.info)

    def run(self, batch: Sequence[Sequence[int]]) -> Float32:
        return self._embedder.engine.run([np.array(ids, np.int64) for ids in batch]).cls

    def embed(self, texts: Sequence[str]) -> Float32:
        dense = self._embedder.encode(texts, sparse=False).dense
        assert dense is not None
        return dense


if __name__ == "__main__":
    serve(Gte, ("gte-runtime", "onnxruntime", "tokenizers", "numpy"))
