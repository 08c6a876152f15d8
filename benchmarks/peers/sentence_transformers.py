"""sentence-transformers with torch. Fixed shapes go through its `forward` as ids, texts through `encode`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peers.worker import Float32, padded, serve


class SentenceTransformers:
    """One `encode` per group, with the group as its batch."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(settings["threads"])
        self._model = SentenceTransformer(settings["native"], device="cpu", local_files_only=True)
        self.notes = {"modules": [type(module).__name__ for module in self._model]}

    def run(self, batch: Sequence[Sequence[int]]) -> Float32:
        import torch

        ids, mask = padded(batch)
        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        with torch.inference_mode():
            return self._model(features)["sentence_embedding"].numpy()

    def embed(self, texts: Sequence[str]) -> Float32:
        return self._model.encode(list(texts), batch_size=len(texts), show_progress_bar=False)


if __name__ == "__main__":
    serve(SentenceTransformers, ("sentence-transformers", "transformers", "torch", "tokenizers"))
