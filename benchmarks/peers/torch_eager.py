"""PyTorch eager on transformers' own GTE class, with scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peers.worker import Float32, padded, serve


class TorchEager:
    """Only the encoder runs: no head, no gradient. A batch without padding passes no mask."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModel

        torch.set_num_threads(settings["threads"])
        kind = getattr(torch, settings["dtype"])
        model = AutoModel.from_pretrained(
            settings["native"], dtype=kind, attn_implementation="sdpa", local_files_only=True
        )
        self._model = model.eval()
        self.notes = {
            "class": type(model).__name__,
            "attention": model.config._attn_implementation,
            "dtype": str(model.dtype),
        }

    def run(self, batch: Sequence[Sequence[int]]) -> Float32:
        import torch

        ids, mask = padded(batch)
        with torch.inference_mode():
            states = self._model(
                input_ids=torch.from_numpy(ids), attention_mask=None if mask.all() else torch.from_numpy(mask)
            ).last_hidden_state
            return states[:, 0].float().numpy()


if __name__ == "__main__":
    serve(TorchEager, ("torch", "transformers"))
