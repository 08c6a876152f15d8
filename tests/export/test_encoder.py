"""The PyTorch encoder: against upstream's outputs, and each attention against the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import Golden

from gte_export.attention.padded import PaddedAttention
from gte_export.attention.ragged import RaggedAttention
from gte_export.attention.sdpa import SdpaAttention
from gte_export.encoders.float import Encoder
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.inference.batch import make_batch, ragged_inputs
from gte_runtime.inference.plan import Budget, plan_ragged


@pytest.fixture(scope="module")
def encoder(golden: Golden) -> Encoder:
    with Checkpoint(golden.checkpoint) as checkpoint:
        a = checkpoint.config.architecture
        return Encoder(a, PaddedAttention(a)).eval().load(checkpoint)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("attention", [PaddedAttention, SdpaAttention])
def test_single_texts(encoder: Encoder, golden: Golden, attention: type):
    """Padded and SDPA attention give upstream's states and weights, text by text."""
    encoder.attention = attention(encoder.architecture)
    for number in range(len(golden.texts)):
        ids = torch.from_numpy(golden.ids(number))[None]
        padded = attention is PaddedAttention
        other = (
            {"attention_mask": torch.ones_like(ids)}
            if padded
            else {"position_ids": torch.arange(ids.shape[1])[None]}
        )
        with torch.inference_mode():
            out = encoder(input_ids=ids, **other)
        assert relative(out["cls"][0].numpy(), golden.cls()[number]) <= 2e-5
        assert relative(out["token_weights"][0].numpy(), golden.weights(number)) <= 2e-5


@pytest.mark.parametrize("flash_from", [2, 64, 10_000])
def test_ragged_batches(encoder: Encoder, golden: Golden, flash_from: int):
    """Ragged attention gives them too, through either branch."""
    encoder.attention = RaggedAttention(encoder.architecture)
    ids = [golden.ids(number) for number in range(len(golden.texts))]
    for rows in plan_ragged([len(i) for i in ids], flash_from, Budget()):
        inputs = ragged_inputs(make_batch(rows, ids, flash_from))
        with torch.inference_mode():
            out = encoder(**{name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()})
        for place, row in enumerate(rows.tolist()):
            assert relative(out["cls"][place].numpy(), golden.cls()[row]) <= 2e-5


def test_a_wrong_mlp_order_shows(encoder: Encoder, golden: Golden):
    """The negative control: GELU on the first half instead of the second is far off."""
    encoder.attention = PaddedAttention(encoder.architecture)
    layer = encoder.layers[0]
    layer.up, layer.gate = layer.gate, layer.up
    ids = torch.from_numpy(golden.ids(0))[None]
    with torch.inference_mode():
        out = encoder(input_ids=ids, attention_mask=torch.ones_like(ids))["cls"][0].numpy()
    layer.up, layer.gate = layer.gate, layer.up
    assert relative(out, golden.cls()[0]) > 1e-2
