"""sentence-transformers on one device, in float16 on a GPU, through `encode`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peers.worker import Float32, padded, serve


class SentenceTransformersOnDevice:
    def __init__(self, settings: dict[str, Any]) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        self._device = settings["device"]
        dtype = torch.float16 if self._device == "cuda" else torch.float32
        self._model = SentenceTransformer(
            settings["native"],
            device=self._device,
            local_files_only=True,
            model_kwargs={"dtype": dtype, "attn_implementation": "sdpa"},
        )
        self.notes = {"modules": [type(module).__name__ for module in self._model], "dtype": str(dtype)}

    def run(self, batch: Sequence[Sequence[int]]) -> Float32:
        import torch

        ids, mask = padded(batch)
        features = {
            "input_ids": torch.from_numpy(ids).to(self._device),
            "attention_mask": torch.from_numpy(mask).to(self._device),
        }
        with torch.inference_mode():
            return self._model(features)["sentence_embedding"].float().cpu().numpy()

    def embed(self, texts: Sequence[str]) -> Float32:
        return self._model.encode(list(texts), batch_size=len(texts), show_progress_bar=False)


if __name__ == "__main__":
    serve(SentenceTransformersOnDevice, ("sentence-transformers", "transformers", "torch", "tokenizers"))
