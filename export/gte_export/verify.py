"""Compares built variants with the PyTorch encoder on a checkpoint's own weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from gte_runtime.building.build import build
from gte_runtime.building.judge import judge
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.format.manifest import Manifest
from gte_runtime.format.recipe import read_recipe
from gte_runtime.inference.batch import make_batch

from .attention.padded import PaddedAttention
from .encoders.float import Encoder

LENGTHS = (2, 3, 17, 63, 64, 65, 130)
"""Texts on both sides of the length from which a ragged graph takes the other attention path."""


def verify(checkpoint: Path, graphs: Path) -> dict[str, float]:
    """Build all variants of a checkpoint and compare them with PyTorch on texts of random ids.

    Args:
        checkpoint: the checkpoint's directory.
        graphs: the directory of the graphs.

    Returns:
        {variant: largest difference of a CLS state, relative to the state's largest value}; of a reranker, of
        a logit, relative to the largest logit.

    Raises:
        SelfCheckFailed: a variant differs from the oracle (numpy, not PyTorch) by more than its tolerance.
    """
    recipe = read_recipe(graphs)
    rng = np.random.default_rng(0)
    ids = [
        rng.integers(0, recipe.architecture.vocab_size, n)
        for n in LENGTHS
        if n <= recipe.architecture.max_positions
    ]
    expected = pytorch_states(checkpoint, ids)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        manifest = build(checkpoint, bundle, graphs=graphs, variants=recipe.variants, ignore_unused=True)
        return {name: _difference(bundle, manifest, name, ids, expected) for name in manifest.variants}


def pytorch_states(checkpoint: Path, ids: list[np.ndarray]) -> list[np.ndarray]:
    """CLS states [H], or a reranker's logits [1], of single texts by the PyTorch encoder in float32."""
    with Checkpoint(checkpoint, ignore_unused=True) as opened, torch.inference_mode():
        a = opened.config.architecture
        encoder = Encoder(a, PaddedAttention(a)).eval()
        if opened.reranker:
            encoder = encoder.as_reranker()
        encoder.load(opened)
        states = []
        for one in ids:
            tokens = torch.from_numpy(one)[None]
            out = encoder(input_ids=tokens, attention_mask=torch.ones_like(tokens))
            states.append((out["logits"] if opened.reranker else out["cls"][0]).numpy())
        return states


def _difference(
    bundle: Path, manifest: Manifest, name: str, ids: list[np.ndarray], expected: list[np.ndarray]
) -> float:
    session = judge(bundle, manifest, name)
    worst = 0.0
    for row in range(len(ids)):
        outputs = session.run(make_batch(np.array([row]), ids, manifest.variants[name].flash_from))
        found = outputs.logits if manifest.reranker else outputs.cls[0]
        # A logit may be near 0, so differences are relative to the largest logit of all.
        scale = max(np.abs(e).max() for e in expected) if manifest.reranker else np.abs(expected[row]).max()
        worst = max(worst, float(np.abs(found - expected[row]).max() / scale))
    session.close()
    return worst
