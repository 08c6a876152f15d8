"""fastembed with the plain export as a custom model, from a local folder. It takes texts only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peers.worker import Float32, serve

NAME = "local/gte-multilingual-base"


class FastEmbed:
    """One `embed` for each group, with the group as its batch. It starts no processes of its own."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        TextEmbedding.add_custom_model(
            model=NAME,
            pooling=PoolingType.CLS,
            normalization=True,
            sources=ModelSource(hf=NAME),  # not used: the folder is given below
            dim=768,
            model_file="model.onnx",
            additional_files=["model.onnx.data"],
        )
        self._model = TextEmbedding(NAME, threads=settings["threads"], specific_model_path=settings["folder"])

    def embed(self, texts: Sequence[str]) -> Float32:
        return np.stack(list(self._model.embed(texts, batch_size=len(texts))))


if __name__ == "__main__":
    serve(FastEmbed, ("fastembed", "onnxruntime", "tokenizers"))
