"""This engine: ragged ids straight to its session, texts through `Embedder.encode`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peers.worker import Float32, serve


class Gte:
    """Fixed shapes are planned and run as `encode` would, without tokenizing."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from gte_runtime import Embedder

        self._embedder = Embedder.open(
            Path(settings["bundle"]), variant=settings["variant"], threads=settings["threads"], provider=settings.get("provider", "cpu"),
            latency=settings.get("latency", False),
        )  # fmt: skip
        self.notes = dict(self._embedder.info)

    def run(self, batch: Sequence[Sequence[int]]) -> Float32:
        from gte_runtime.tokenization import Tokens

        # The engine's own plan, on ids: what `encode` does after tokenizing.
        tokens = [Tokens(np.array(ids, np.int64), False) for ids in batch]
        return self._embedder._run(tokens).cls

    def embed(self, texts: Sequence[str]) -> Float32:
        dense = self._embedder.encode(texts, sparse=False).dense
        assert dense is not None
        return dense


if __name__ == "__main__":
    serve(Gte, ("gte-runtime", "onnxruntime", "tokenizers", "numpy"))
