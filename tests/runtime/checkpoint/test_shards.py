"""Weights in several files are read by their index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from golden import Golden
from stlayout import copy_of, put, shard
from tensorfile import read_tensors

from gte_runtime.building.build import build
from gte_runtime.checkpoint.shards import INDEX, WEIGHTS, Weights
from gte_runtime.errors import CheckpointError

Split = Callable[[int], Path]


@pytest.fixture
def split(golden: Golden, tmp_path: Path) -> Split:
    """Makes the golden checkpoint in so many shards."""

    def make(count: int) -> Path:
        folder = copy_of(golden.checkpoint, tmp_path / "sharded")
        tensors = read_tensors(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = list(tensors)
        places = shard(folder, tensors, [names[n::count] for n in range(count)])
        return put(folder, {INDEX: {"metadata": {"total_size": 1}, "weight_map": places}})

    return make


@pytest.mark.parametrize("count", [1, 3])
def test_shards_are_one_checkpoint(golden: Golden, split: Split, count: int):
    """Every tensor as in the one file."""
    folder, expected = split(count), read_tensors(golden.checkpoint / WEIGHTS)
    weights = Weights(folder)
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        assert np.array_equal(weights.read(name, slice(None)), tensor.values())
    assert len(weights.paths) == count
    weights.close()


@pytest.mark.slow
def test_a_bundle_of_shards(golden: Golden, tiny_bundle: Path, split: Split, tmp_path: Path):
    """The weight files are those of the one file; `source` names all shards, as sha256sum lists them."""
    folder = split(2)
    manifest = build(folder, tmp_path / "bundle", graphs=golden.graphs)
    for file in manifest.variants["cpu-fp32"].weights:
        assert (tmp_path / "bundle" / file).read_bytes() == (tiny_bundle / file).read_bytes()
    lines = ""
    for name in sorted(path.name for path in folder.glob("model-*")):
        lines += f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
    assert manifest.source == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "weight_map is None"),
        ({"weight_map": {}}, "weight_map is {}"),
        ({"weight_map": {"a": "../model.safetensors"}}, "expected the name of a file"),
        ({"weight_map": {"a": ".hidden.safetensors"}}, "expected the name of a file"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "expected the name of a file"),
        ({"weight_map": {"a": 3}}, "expected the name of a file"),
        ({"weight_map": {"a": "model-9.safetensors"}}, "names model-9.safetensors, which is not there"),
        ({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, "they do not belong together"),
    ],
)
def test_an_index_that_is_none(split: Split, index: object, words: str):
    """Damaged, of other shards, or one that leads out of the folder."""
    folder = put(split(2), {INDEX: index})
    with pytest.raises(CheckpointError, match=words):
        Weights(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pytorch_model.bin", "only pickled weights, which can run code .* safetensors.torch.save_file"),
        ("model.pt", "only pickled weights"),
        ("pytorch_model-00001-of-00002.bin", "only pickled weights"),
        ("tf_model.h5", r"only TensorFlow's weights .tf_model.h5."),
        ("model-00001-of-00002.safetensors", "shards of weights without model.safetensors.index.json"),
        ("vocab.txt", "no model.safetensors in x"),
    ],
)
def test_weights_in_another_form(tmp_path: Path, name: str, words: str):
    """They are named for what they are."""
    folder = put(tmp_path / "x", {name: "x"})
    with pytest.raises(CheckpointError, match=words):
        Weights(folder)
