"""The golden checkpoint with a masked-language-model head of random weights in place of its classifier.

tests/data/compat/make_sparse.py reads this module, to say what sentence-transformers makes of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from golden import DATA
from tensorfile import Tensor, Tensors, derive

TEXTS = [
    "What is the capital of China?",
    "北京是中华人民共和国的首都。",
    "",
    "To sort a list in Python, call sorted(). " * 20,
    "a b",
]
WIDTH = 64


def add_head(tensors: Tensors, norm: str = "norm") -> None:
    """In place of the classifier; `norm` is upstream's name, transformers 5 has `layer_norm`.

    The bias of most entries is so low that an expansion has some dozens of them, as one of trained weights.
    """
    rng = np.random.default_rng(5)
    for kind in ("weight", "bias"):
        del tensors[f"classifier.{kind}"]
    vocabulary = tensors["new.embeddings.word_embeddings.weight"].shape[0]

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    values: dict[str, np.ndarray] = {
        "dense.weight": drawn(WIDTH, WIDTH) / np.float32(8),
        "dense.bias": drawn(WIDTH) * np.float32(0.1),
        f"{norm}.weight": 1 + drawn(WIDTH) * np.float32(0.1),
        f"{norm}.bias": drawn(WIDTH) * np.float32(0.1),
        "decoder.bias": drawn(vocabulary) - np.float32(14),
    }
    for name, value in values.items():
        tensors[f"lm_head.{name}"] = Tensor.of(value, "F32")


def query_weights(vocabulary: int) -> np.ndarray:
    """Of a query encoder: some are 0, as those of special tokens, and the last entries have none."""
    weights = np.random.default_rng(6).uniform(0, 5, vocabulary - 3).astype(np.float32)
    weights[::7] = 0
    return weights


def write_mlm(directory: Path, files: dict[str, Any] | None = None) -> Path:
    """A checkpoint with the head, and JSON files beside it. Returns the directory."""
    derive(DATA / "gte-tiny-random", directory, add_head)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(config | {"architectures": ["NewForMaskedLM"]}))
    for name, content in (files or {}).items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory
