"""Where int8 is not accurate enough, the products that cost most stay in float; where that does not help, the
build says that there is no `cpu-int8` and why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from golden import DATA, Golden
from hypothesis import given
from hypothesis import strategies as st
from invariance import assert_as_alone
from tensorfile import Tensors, derive

from gte_runtime import Embedder, Reranker
from gte_runtime.building.build import build
from gte_runtime.building.kept import MOST, Simulation, share_of
from gte_runtime.building.transforms import TRANSFORMS
from gte_runtime.bundle.directory import Bundle
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.errors import SelfCheckFailed
from gte_runtime.format.graph import inspect_graph

TEXTS = ["what is the capital of China?", "北京", "Привет, мир!", "word", "a " * 200]
BOTH = ("cpu-fp32", "cpu-int8")


def multiplied(factor: float, ending: str) -> Callable[[Tensors], None]:
    """A change: all weights whose names end so are `factor` times as large."""

    def change(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if name.endswith(ending):
                tensors[name] = type(tensor).of(tensor.values().astype(np.float32) * factor)

    return change


def loud_norms(tensors: Tensors) -> None:
    """Two channels of every norm are 30 times as large."""
    for name, tensor in tensors.items():
        if name.endswith(("attn_ln.weight", "attn_ln.bias", "mlp_ln.weight")):
            values = tensor.values().astype(np.float32)
            values[[5, 40]] *= 30
            tensors[name] = type(tensor).of(values)


SHARP = multiplied(2, "qkv_proj.weight")
"""int8 alone is at 0.994; attention is so sharp that an error in a score chooses another token."""


def operators(bundle: Path) -> tuple[str, ...]:
    return inspect_graph((bundle / "cpu-int8.onnx").read_bytes(), "cpu-int8.onnx").operators


class Built:
    """A bundle, and what the build told."""

    def __init__(self, checkpoint: Path, folder: Path, change: Callable[[Tensors], None]) -> None:
        derive(checkpoint, folder / "checkpoint", change)
        self.graphs, self.folder, self.told = checkpoint / "graphs", folder, list[str]()
        self.bundle = folder / "bundle"

    def build(self, variants: tuple[str, ...] = BOTH) -> Built:
        build(
            self.folder / "checkpoint",
            self.bundle,
            graphs=self.graphs,
            variants=variants,
            overwrite=True,
            tell=self.told.append,
        )
        return self

    def cosines(self) -> np.ndarray:
        """Of int8 vectors to float32 ones."""
        with (
            Embedder.open(self.bundle, variant="cpu-fp32") as exact,
            Embedder.open(self.bundle, variant="cpu-int8") as rounded,
        ):
            return np.sum(exact.encode(TEXTS).dense * rounded.encode(TEXTS).dense, axis=1)


@pytest.fixture(scope="module")
def sharp(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(golden.checkpoint, tmp_path_factory.mktemp("sharp"), SHARP).build()


def test_the_promise_is_kept(sharp: Built):
    """The vectors are within the tolerance, also for other texts, and some products are still in int8."""
    found = sharp.cosines()
    assert 0.995 < found.min() < 1 - 1e-6
    assert "com.microsoft::MatMulIntegerToFloat" in operators(sharp.bundle)


def test_what_was_kept_is_told(sharp: Built):
    (line,) = sharp.told
    assert line.startswith("cpu-int8: ")
    assert "layers.0.query" in line
    alone, with_these = map(float, re.findall(r"cosine of (0\.\d{5})", line))
    assert alone < 0.995 < with_these


def test_ordinary_checkpoints_are_left_alone(golden: Golden, tmp_path: Path):
    """The graph is the traced one, byte for byte, and there is nothing to tell."""
    built = Built(golden.checkpoint, tmp_path, lambda tensors: None).build()
    assert not built.told
    traced = (golden.graphs / "cpu-int8.table-int8.onnx").read_bytes()
    assert (built.bundle / "cpu-int8.onnx").read_bytes() == traced


def test_the_bundle_opens_and_verifies(sharp: Built):
    with Embedder.open(sharp.bundle, variant="cpu-int8", verify="always") as gte:
        assert gte.encode(TEXTS).dense.shape == (len(TEXTS), gte.dim)


def test_any_list_is_as_one_by_one(sharp: Built):
    with Embedder.open(sharp.bundle, variant="cpu-int8") as gte:
        alone = np.concatenate([gte.encode([text]).dense for text in TEXTS])
        assert_as_alone(gte, gte.encode(TEXTS * 2).dense, np.concatenate([alone, alone]))


def test_twice_the_same_bytes(sharp: Built, golden: Golden, tmp_path: Path):
    other = Built(golden.checkpoint, tmp_path, SHARP).build()
    for file in sorted(sharp.bundle.glob("*int8*")):
        assert file.read_bytes() == (other.bundle / file.name).read_bytes(), file.name


@pytest.mark.parametrize("change", [SHARP, loud_norms], ids=["ordinary form", "form for outliers"])
def test_everything_in_float_is_float32(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensors], None]
):
    """With all products and the table kept, the graph gives the vectors of float32: every replaced node and
    every weight is right, and not merely small.
    """
    monkeypatch.setattr(Simulation, "choose", lambda self, allowed: tuple(self.single))
    monkeypatch.setattr("gte_runtime.building.build.MOST", 1.0)
    built = Built(golden.checkpoint, tmp_path, change).build()
    assert built.told
    assert Bundle.open(built.bundle).manifest.variants["cpu-int8"].weights[1] == (
        "weights-int8.bin" if change is SHARP else "weights-int8-outliers.bin"
    )
    assert built.cosines().min() > 1 - 1e-6


def test_a_reranker(tmp_path: Path):
    """Its distance is that of scores."""
    built = Built(DATA / "gte-tiny-reranker", tmp_path, SHARP).build()
    pairs = [("what is the capital of China?", text) for text in TEXTS]
    with (
        Reranker.open(built.bundle, variant="cpu-fp32") as exact,
        Reranker.open(built.bundle, variant="cpu-int8") as rounded,
    ):
        assert np.abs(exact.score(pairs) - rounded.score(pairs)).max() < 0.1


def test_a_checkpoint_for_which_nothing_helps(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The other variants are built, and the missing one is told with its reason."""
    monkeypatch.setattr("gte_runtime.building.build.MOST", 0.0)
    built = Built(golden.checkpoint, tmp_path, SHARP).build()
    assert list(Bundle.open(built.bundle).manifest.variants) == ["cpu-fp32"]
    (line,) = built.told
    for words in ("cpu-int8 cannot be built", "int8 alone is at a cosine of", "the bundle has cpu-fp32"):
        assert words in line
    assert "ONNX Runtime changed" not in line


def test_a_checkpoint_for_which_nothing_helps_and_nothing_else_is_wanted(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gte_runtime.building.build.MOST", 0.0)
    built = Built(golden.checkpoint, tmp_path, SHARP)
    with pytest.raises(SelfCheckFailed, match=r"cannot be built.*build cpu-fp32"):
        built.build(("cpu-int8",))
    assert not built.bundle.exists()


def test_a_wrong_weight_is_not_taken_for_rounding(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The simulation says what rounding can cost. More than that is a fault, and is called one."""
    right = TRANSFORMS["quantize_scale"]
    monkeypatch.setitem(TRANSFORMS, "quantize_scale", lambda *a: (1.1 * piece for piece in right(*a)))
    with pytest.raises(SelfCheckFailed, match="ONNX Runtime changed"):
        Built(golden.checkpoint, tmp_path, lambda tensors: None).build()


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 1), min_size=1), st.floats(0, 2))
def test_no_more_products_than_needed(single: Mapping[str, float], allowed: float):
    """Those with the largest errors, and what is left is small enough; with one fewer it is not."""
    simulation = Simulation({name: np.array([error]) for name, error in single.items()}, 0.0)
    kept = simulation.choose(allowed)

    def rest(chosen: tuple[str, ...]) -> float:
        return sum(error**2 for name, error in single.items() if name not in chosen)

    assert rest(kept) <= allowed**2 + 1e-9
    assert not kept or rest(kept[:-1]) > allowed**2 - 1e-9
    left = [error for name, error in single.items() if name not in kept]
    assert min((single[name] for name in kept), default=1) >= max(left, default=0)


def test_half_of_the_multiplications(golden: Golden):
    with Checkpoint(golden.checkpoint) as checkpoint:
        a = checkpoint.config.architecture
    every = [
        f"layers.{n}.{part}"
        for n in range(a.layers)
        for part in ("query", "key", "value", "output", "gate", "up", "down")
    ]
    assert share_of(["embeddings.word"], a) == 0
    assert share_of(every, a) == 1
    first = share_of([name for name in every if name.startswith("layers.0.")], a)
    assert first == pytest.approx(1 / a.layers)
    assert 0 < MOST < 1
