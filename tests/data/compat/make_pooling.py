"""Writes pooling.npz: what sentence-transformers' Pooling and Dense modules make of random states of tokens.

It needs an environment of its own: Python 3.11, torch 2.13.0, sentence-transformers 6.2.0. From the root of
the repository:

    PYTHON tests/data/compat/make_pooling.py

Nothing of gte_runtime runs here. The texts are padded to one length, and what stands in the padding is large,
so a module that read it would show.
"""
# ruff: noqa: TID251 - torch is what this file is for; it runs in an environment of its own

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.sentence_transformer.modules.pooling import Pooling

LENGTHS, WIDTH, OUTPUTS = (1, 2, 7, 70), 12, 5
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
ACTIVATIONS = {
    "identity": torch.nn.Identity(),
    "tanh": torch.nn.Tanh(),
    "relu": torch.nn.ReLU(),
    "sigmoid": torch.nn.Sigmoid(),
}

torch.manual_seed(2)
states = torch.full((len(LENGTHS), max(LENGTHS), WIDTH), 1e3)
mask = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.int64)
for row, length in enumerate(LENGTHS):
    states[row, :length] = torch.randn(length, WIDTH)
    mask[row, :length] = 1
stored = {
    "lengths": np.array(LENGTHS),
    "states": np.concatenate([states[row, :length].numpy() for row, length in enumerate(LENGTHS)]),
}


def pooled(mode: str | tuple[str, ...]) -> torch.Tensor:
    features = {"token_embeddings": states.clone(), "attention_mask": mask}
    return Pooling(WIDTH, mode)(features)["sentence_embedding"]


for mode in MODES:
    stored[mode] = pooled(mode).numpy()
stored["cls+mean"] = pooled(("cls", "mean")).numpy()
for name, function in ACTIVATIONS.items():
    layer = Dense(WIDTH, OUTPUTS, bias=name != "relu", activation_function=function)
    stored[f"{name}.weight"] = layer.linear.weight.detach().numpy()
    if layer.linear.bias is not None:
        stored[f"{name}.bias"] = layer.linear.bias.detach().numpy()
    stored[name] = layer({"sentence_embedding": pooled("mean")})["sentence_embedding"].detach().numpy()
np.savez_compressed(Path(__file__).with_name("pooling.npz"), **stored)
