"""Parity with transformers' own GTE model, over checkpoints in every spelling and shape of the family.

Neither that model nor its numbers have anything from this project; see data/native/make_expected.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import VARIATIONS, write_tokenizer, write_variation
from numpy.typing import NDArray
from tensorfile import read_tensors

from gte_export.plans import Plan, plans
from gte_export.trace import trace
from gte_runtime.building.build import build
from gte_runtime.bundle.directory import Bundle
from gte_runtime.checkpoint.config import parse_config, read_config
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.device.cpu import CpuSession
from gte_runtime.format.architecture import Architecture
from gte_runtime.inference.batch import make_batch
from gte_runtime.inference.plan import Budget, plan_padded, plan_ragged
from gte_runtime.proof.oracle import forward

EXPECTED = Path(__file__).parents[1] / "data" / "native" / "expected.npz"
VARIANTS = ("cpu-fp32", "portable-fp32")
LIMIT = 2e-5
WRONG = 1e-3
"""A wrong RoPE has to be off by more than this in every text, were it of two tokens."""

Float = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class States:
    """CLS state and token weights of each text."""

    cls: list[Float]
    weights: list[Float]


@dataclass(frozen=True)
class Expected:
    """What transformers says of a variation."""

    ids: list[NDArray[np.int64]]
    states: States
    classifier: bool
    inv_freq: Float
    total: float


def read_expected(name: str) -> Expected:
    with np.load(EXPECTED) as stored:
        ends = np.cumsum(stored["lengths"])[:-1]
        classifier = f"{name}.weights" in stored
        weights = (
            stored[f"{name}.weights"] if classifier else np.zeros(len(stored[f"{name}.ids"]), np.float32)
        )
        return Expected(
            ids=np.split(stored[f"{name}.ids"].astype(np.int64), ends),
            states=States(list(stored[f"{name}.cls"]), np.split(weights, ends)),
            classifier=classifier,
            inv_freq=stored[f"{name}.inv_freq"],
            total=float(stored[f"{name}.total"]),
        )


class Workshop:
    """Writes checkpoints, traces the graphs of their architectures and builds bundles, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = write_tokenizer(folder / "tokenizer.json")
        self._graphs: dict[Architecture, Path] = {}

    def checkpoint(self, name: str) -> Path:
        return self._once(
            f"{name}.checkpoint", lambda directory: write_variation(name, directory, self.tokenizer)
        )

    def with_theta(self, name: str, theta: float) -> Path:
        """A variation's checkpoint with the plain RoPE of this theta."""

        def copy(directory: Path) -> None:
            shutil.copytree(self.checkpoint(name), directory)
            config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            config.pop("rope_parameters", None)
            config |= {"rope_theta": theta, "rope_scaling": None}
            (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")

        return self._once(f"{name}.{theta:.0f}.checkpoint", copy)

    def bundle(self, checkpoint: Path) -> Path:
        graphs = self._traced(checkpoint)
        return self._once(
            f"{checkpoint.stem}.bundle",
            lambda bundle: build(checkpoint, bundle, graphs=graphs, variants=VARIANTS),
        )

    def _traced(self, checkpoint: Path) -> Path:
        architecture = read_config(checkpoint).architecture
        if architecture not in self._graphs:
            graphs = self.folder / f"graphs-{len(self._graphs)}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("gte_export.trace.plans", lambda _: needed_plans(architecture))
                trace(checkpoint, graphs)
            self._graphs[architecture] = graphs
        return self._graphs[architecture]

    def _once(self, name: str, make: Callable[[Path], object]) -> Path:
        path = self.folder / name
        if not path.exists():
            make(path)
        return path


def needed_plans(architecture: Architecture) -> Iterator[Plan]:
    """The graphs that builds of the variations choose from: half of all, and tracing is what takes the time
    here.
    """
    tables = {
        "float16" if variation.form.dtype == "F16" else "float32"
        for variation in VARIATIONS.values()
        if parse_config(variation.config).architecture == architecture
    }
    return (plan for plan in plans(architecture) if plan.variant in VARIANTS and plan.table in tables)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("native"))


def by_oracle(checkpoint: Path, ids: list[NDArray[np.int64]]) -> States:
    with Checkpoint(checkpoint) as opened:
        references = [forward(opened, one) for one in ids]
    return States([r.cls for r in references], [r.token_weights for r in references])


def by_engine(bundle: Path, variant: str, ids: list[NDArray[np.int64]], *, together: bool) -> States:
    """Run texts one by one, or as the embedder would run them in one call."""
    opened = Bundle.open(bundle)
    chosen = opened.variant(variant)
    lengths = [len(one) for one in ids]
    planned = (
        plan_padded(lengths, Budget())
        if chosen.batch == "padded"
        else plan_ragged(lengths, chosen.flash_from, Budget())
    )
    groups = planned if together else [np.array([row]) for row in range(len(ids))]
    cls: dict[int, Float] = {}
    weights: dict[int, Float] = {}
    session = CpuSession(
        opened.read(chosen.graph), bundle, chosen, opened.manifest.architecture.hidden_size, threads=1
    )
    try:
        for rows in groups:
            batch = make_batch(rows, ids, chosen.flash_from)
            outputs = session.run(batch)
            cls |= zip(rows.tolist(), outputs.cls, strict=True)
            weights |= zip(
                rows.tolist(), np.split(outputs.token_weights, batch.cu_seqlens[1:-1]), strict=True
            )
    finally:
        session.close()
    return States([cls[row] for row in range(len(ids))], [weights[row] for row in range(len(ids))])


def errors(found: States, expected: Expected) -> list[float]:
    """For each text, the larger of the errors of its state and of its token weights, as a share of the
    largest value.
    """
    of_states = [relative(*pair) for pair in zip(found.cls, expected.states.cls, strict=True)]
    if not expected.classifier:
        return of_states
    of_weights = [relative(*pair) for pair in zip(found.weights, expected.states.weights, strict=True)]
    return [max(pair) for pair in zip(of_states, of_weights, strict=True)]


def relative(found: Float, expected: Float) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", VARIATIONS)
def test_the_checkpoint_is_the_one_they_saw(workshop: Workshop, name: str):
    """Random weights are those that transformers was given; if not, make_expected.py has to run again."""
    tensors = read_tensors(workshop.checkpoint(name) / "model.safetensors").values()
    total = sum(float(np.abs(tensor.values().astype(np.float64)).sum()) for tensor in tensors)
    assert total == pytest.approx(read_expected(name).total, rel=1e-9)


@pytest.mark.parametrize("name", VARIATIONS)
def test_frequencies(workshop: Workshop, name: str):
    """RoPE frequencies are those of transformers' class to the last bits of float32."""
    expected = read_expected(name).inv_freq
    np.testing.assert_allclose(read_config(workshop.checkpoint(name)).rope.frequencies(), expected, rtol=5e-7)


@pytest.mark.parametrize("name", VARIATIONS)
def test_oracle(workshop: Workshop, name: str):
    """The judge of every build agrees."""
    expected = read_expected(name)
    assert max(errors(by_oracle(workshop.checkpoint(name), expected.ids), expected)) <= LIMIT


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", VARIATIONS)
def test_engine(workshop: Workshop, name: str, variant: str, together: bool):
    """A built bundle agrees, on each text by itself and on all of them in one call."""
    expected = read_expected(name)
    bundle = workshop.bundle(workshop.checkpoint(name))
    assert Bundle.open(bundle).manifest.sparse == expected.classifier
    found = by_engine(bundle, variant, expected.ids, together=together)
    assert max(errors(found, expected)) <= LIMIT
    if not expected.classifier:
        assert not any(weights.any() for weights in found.weights)


def wrong_thetas() -> list[Any]:
    """The frequencies that ports of this model take for the right ones, for base 20000, factor 8 and the head
    size.
    """
    return [
        pytest.param(name, theta, id=f"{name}-{mistake}")
        for name, size in (("new_prefix", 16), ("gte_prefix_native_config", 64))
        for mistake, theta in (
            ("unscaled", 20000.0),
            ("undivided", 160000.0),
            ("classic_ntk", 20000 * 8 ** (size / (size - 2))),
        )
    ]


@pytest.mark.parametrize(("name", "theta"), wrong_thetas())
def test_a_wrong_rope_shows(workshop: Workshop, name: str, theta: float):
    """The negative control: with such frequencies the same comparison fails, by oracle and bundle, for every
    text.
    """
    expected = read_expected(name)
    checkpoint = workshop.with_theta(name, theta)
    assert min(errors(by_oracle(checkpoint, expected.ids), expected)) > WRONG
    for variant in VARIANTS:
        found = by_engine(workshop.bundle(checkpoint), variant, expected.ids, together=True)
        assert min(errors(found, expected)) > WRONG
