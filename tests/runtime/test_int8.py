"""int8 keeps the model's answers, also where a few channels are far larger than the others, and every text
its bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fuzzing import examples
from golden import Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from invariance import assert_as_alone, assert_weights_as_alone
from tensorfile import Derive, Tensors, derive

from gte_runtime import Embedder
from gte_runtime.building.build import build
from gte_runtime.bundle.directory import Bundle

TEXTS = [
    "what is the capital of China?",
    "北京",
    "how to implement quick sort in python?",
    "Привет, мир!",
    "a " * 200,
    "word",
]


@pytest.fixture(scope="module")
def int8(mini_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(mini_bundle, variant="cpu-int8") as engine:
        yield engine


def cosines(bundle: Path) -> np.ndarray:
    """Of int8 vectors to float32 ones."""
    with (
        Embedder.open(bundle, variant="cpu-fp32") as exact,
        Embedder.open(bundle, variant="cpu-int8") as rounded,
    ):
        return np.sum(exact.encode(TEXTS).dense * rounded.encode(TEXTS).dense, axis=1)


def test_ordinary_weights(mini_bundle: Path):
    """Close, but not the float32 numbers in disguise.

    192 values average less than 768, where 0.9997 was measured.
    """
    found = cosines(mini_bundle)
    assert 0.998 < found.min() < found.max() < 0.9999999


def test_token_weights(mini_bundle: Path, int8: Embedder):
    """The strongest tokens stay the strongest."""
    with Embedder.open(mini_bundle, variant="cpu-fp32") as exact:
        for want, got in zip(exact.token_weights(TEXTS), int8.token_weights(TEXTS), strict=True):
            top = max(want, key=want.get)
            assert got[top] == pytest.approx(want[top], rel=0.1, abs=0.05)


CHANNELS = [5, 40, 77]


def norms(tensors: Tensors, factor: float) -> None:
    """A norm gives thirty times the values, and those who read it expect that."""
    for name, tensor in tensors.items():
        values = tensor.values().astype(np.float32)
        if name.endswith(("attn_ln.weight", "attn_ln.bias", "LayerNorm.weight", "LayerNorm.bias")):
            values[CHANNELS] *= factor
        elif name.endswith(("up_gate_proj.weight", "qkv_proj.weight")):
            values[:, CHANNELS] /= factor
        else:
            continue
        tensors[name] = type(tensor).of(values)


def inner(tensors: Tensors, factor: float) -> None:
    """The same for what the output and the down projection read."""
    for name, tensor in tensors.items():
        values = tensor.values().astype(np.float32)
        if name.endswith("qkv_proj.weight"):
            values[[2 * values.shape[1] + channel for channel in CHANNELS]] *= factor
        elif name.endswith("qkv_proj.bias"):
            values[[len(values) // 3 * 2 + channel for channel in CHANNELS]] *= factor
        elif name.endswith("up_gate_proj.weight"):
            values[CHANNELS] *= factor
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            values[:, CHANNELS] /= factor
        else:
            continue
        tensors[name] = type(tensor).of(values)


@pytest.mark.slow
@pytest.mark.parametrize("where", [norms, inner], ids=lambda f: f.__name__)
def test_outlier_channels(derived: Derive, mini_checkpoint: Path, mini_bundle: Path, tmp_path: Path, where):
    """Thirty times the values in a few channels cost nothing. Without the factors, int8 fails here."""
    build(
        derived(lambda tensors: where(tensors, 30.0)),
        tmp_path / "b",
        graphs=mini_checkpoint,
        variants=("cpu-fp32", "cpu-int8"),
    )
    assert (1 - cosines(tmp_path / "b")).mean() < 1.3 * (1 - cosines(mini_bundle)).mean()


def unexpected(tensors: Tensors, factor: float) -> None:
    """Attention mixes thirty times the values in a few channels, and the output projection does not expect
    it.
    """
    for name, tensor in tensors.items():
        if name.endswith("qkv_proj.weight"):
            values = tensor.values().astype(np.float32)
            values[[2 * values.shape[1] + channel for channel in CHANNELS]] *= factor
            tensors[name] = type(tensor).of(values)


@pytest.fixture(scope="module")
def outlying(mini_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a checkpoint in float32 and int8.

    How far the ordinary form is off hangs on the weights; here it is never near enough.
    """
    folder = tmp_path_factory.mktemp("outlying")
    derive(mini_checkpoint, folder / "checkpoint", lambda tensors: unexpected(tensors, 30.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gte_runtime.building.build.CLOSE_ENOUGH", 0.0)
        build(
            folder / "checkpoint",
            folder / "bundle",
            graphs=mini_checkpoint,
            variants=("cpu-fp32", "cpu-int8"),
        )
    return folder / "bundle"


@pytest.mark.slow
def test_outliers_that_nobody_expects(
    outlying: Path, mini_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They stay in float32, since the build finds that nearer: of what the ordinary form loses, at most two
    thirds are left.
    """
    assert Bundle.open(outlying).manifest.variants["cpu-int8"].weights == (
        "table-int8.bin",
        "weights-int8-outliers.bin",
    )
    monkeypatch.setattr("gte_runtime.building.build.has_outliers", lambda largest: False)
    build(
        outlying.parent / "checkpoint",
        tmp_path / "b",
        graphs=mini_checkpoint,
        variants=("cpu-fp32", "cpu-int8"),
    )
    assert Bundle.open(tmp_path / "b").manifest.variants["cpu-int8"].weights == (
        "table-int8.bin",
        "weights-int8.bin",
    )
    assert (1 - cosines(outlying)).mean() < 0.67 * (1 - cosines(tmp_path / "b")).mean()


def test_ordinary_checkpoints_take_the_ordinary_form(mini_bundle: Path, tiny_bundle: Path):
    """The other one is slower."""
    for bundle in (mini_bundle, tiny_bundle):
        assert Bundle.open(bundle).manifest.variants["cpu-int8"].weights == (
            "table-int8.bin",
            "weights-int8.bin",
        )


@pytest.mark.slow
@settings(max_examples=examples(15))
@given(texts=st.lists(st.text(max_size=60) | st.integers(1, 150).map("ab ".__mul__), min_size=1, max_size=12))
def test_outliers_in_any_list_as_one_by_one(outlying: Path, texts: list[str]):
    """What stays in float32 does not depend on the company either."""
    with Embedder.open(outlying, variant="cpu-int8") as engine:
        together = engine.encode(texts)
        for row, text in enumerate(texts):
            alone = engine.encode(text)
            assert_as_alone(engine, together.dense[row], alone.dense[0])
            assert_weights_as_alone(engine, together.sparse[row].as_dict(), alone.sparse[0].as_dict())


@pytest.mark.slow
@settings(max_examples=examples(40), deadline=None)
@given(texts=st.lists(st.text(max_size=60) | st.integers(1, 150).map("ab ".__mul__), min_size=1, max_size=12))
def test_any_list_is_as_one_by_one(int8: Embedder, texts: list[str]):
    """Whatever stands beside a text, its vector has the same bits."""
    together = int8.encode(texts)
    for row, text in enumerate(texts):
        alone = int8.encode(text)
        assert_as_alone(int8, together.dense[row], alone.dense[0])
        assert_weights_as_alone(int8, together.sparse[row].as_dict(), alone.sparse[0].as_dict())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8"])
def test_threads_do_not_change_bits(mini_bundle: Path, variant: str):
    """One processor or many, side by side or all on one text."""
    with (
        Embedder.open(mini_bundle, variant=variant, threads=1) as one,
        Embedder.open(mini_bundle, variant=variant) as many,
    ):
        expected, found = one.encode(TEXTS * 9), many.encode(TEXTS * 9)
        assert_as_alone(many, found.dense, expected.dense)


def test_goldens(tiny_bundle: Path, golden: Golden):
    """The published vectors of the smallest model, 64 wide: rounding averages out over fewer values there."""
    with Embedder.open(tiny_bundle, variant="cpu-int8") as engine:
        found = engine.encode(golden.texts).dense
    assert np.sum(found * golden.arrays["dense"], axis=1).min() > 0.995
