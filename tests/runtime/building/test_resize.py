"""One trace serves checkpoints with more or fewer tokens and positions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from golden import Golden
from stlayout import copy_of
from tensorfile import Tensor, read_tensors, safetensors

from gte_runtime import Embedder
from gte_runtime.building.build import build
from gte_runtime.building.resize import resize_layout
from gte_runtime.building.weights import fit_graph, read_layouts
from gte_runtime.errors import CheckpointError
from gte_runtime.format.recipe import find_graphs, read_recipe

MODELS = Path(__file__).parents[3] / "models"
ENGLISH, MULTILINGUAL = MODELS / "gte-base-en-v1.5", MODELS / "gte-multilingual-base"
"""Two traces of the same operators, for 30,528 and 250,048 tokens."""


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [(ENGLISH, MULTILINGUAL), (MULTILINGUAL, ENGLISH)])
def test_it_becomes_what_the_exporter_traces(source: Path, target: Path):
    """Byte for byte: every graph and every layout of the other vocabulary."""
    recipe, wanted = read_recipe(source), read_recipe(target)
    traced = read_layouts(source, recipe.graphs)
    fitted = {file: resize_layout(layout, wanted.architecture) for file, layout in traced.items()}
    for file, layout in fitted.items():
        name = f"{file.removesuffix('.bin')}.layout.json"
        assert layout.to_json() == (target / name).read_text(encoding="utf-8")
    for graph in recipe.graphs:
        found = fit_graph(graph, (source / graph.file).read_bytes(), traced, fitted)
        assert found == (target / graph.file).read_bytes()


def test_a_trace_that_fits_is_not_touched():
    """The same object: bundles of known models stay as they are."""
    recipe = read_recipe(ENGLISH)
    for layout in read_layouts(ENGLISH, recipe.graphs).values():
        assert resize_layout(layout, recipe.architecture) is layout


def resized(golden: Golden, folder: Path, rows: int, **config: int) -> Path:
    """A checkpoint with some more tokens, of which the tokenizer uses none."""
    checkpoint = copy_of(golden.checkpoint, folder)
    raw = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    tensors = read_tensors(checkpoint / "model.safetensors")
    name = "new.embeddings.word_embeddings.weight"
    table = tensors[name].values()
    table = np.concatenate([table, table[:rows]])
    tensors[name] = Tensor.of(table, "F16")
    (checkpoint / "model.safetensors").write_bytes(safetensors(tensors))
    raw |= {"vocab_size": len(table), **config}
    (checkpoint / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "positions"), [(2, 8192), (64, 700), (0, 16384)])
def test_other_tokens_and_positions_change_no_bit(
    golden: Golden, tiny_bundle: Path, tmp_path: Path, rows: int, positions: int
):
    """Two tokens more, fewer positions, more of them: the vectors of the texts are those of before."""
    checkpoint = resized(golden, tmp_path / "other", rows, max_position_embeddings=positions)
    variants = ("cpu-fp32", "cpu-int8", "portable-fp16")
    build(checkpoint, tmp_path / "bundle", graphs=golden.graphs, variants=variants)
    text = ["a quick brown fox", "dog " * 200]
    for variant in variants:
        with Embedder.open(tmp_path / "bundle", variant=variant, threads=1) as other:
            found = other.encode(text)
            assert (other.max_length, found.sparse is not None) == (positions, True)
        with Embedder.open(tiny_bundle, variant=variant, threads=1) as gte:
            assert np.array_equal(found.dense, gte.encode(text).dense)


def test_other_operators_need_another_trace(golden: Golden):
    """Only the heights of tables may differ; the message does not speak of those."""
    architecture = read_recipe(golden.graphs).architecture
    for field in ("layers", "heads", "intermediate_size"):
        other = type(architecture)(
            **{
                name: getattr(architecture, name) * (2 if name == field else 1)
                for name in architecture.__dataclass_fields__
            }
            | {"vocab_size": 7}
        )
        with pytest.raises(CheckpointError, match=field) as caught:
            find_graphs(other, golden.graphs, shipped=MODELS)
        assert "vocab_size" not in str(caught.value)
