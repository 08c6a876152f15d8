"""Parity of rerankers with transformers' own class, in every spelling; see data/native/make_logits.py."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import RERANKERS, write_tokenizer, write_variation
from numpy.typing import NDArray
from tensorfile import read_tensors

from gte_export import trace as tracing
from gte_export.verify import pytorch_states
from gte_runtime import Reranker
from gte_runtime.building.build import build
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.proof.oracle import forward

EXPECTED = Path(__file__).parents[1] / "data" / "native" / "logits.npz"
VARIANTS = ("cpu-fp32", "portable-fp32")
LIMIT = 2e-5
"""Of the largest logit of a checkpoint."""
WRONG = 1e-3


@dataclass(frozen=True)
class Expected:
    ids: list[NDArray[np.int64]]
    logits: NDArray[np.float32]
    total: float


def read_expected(name: str) -> Expected:
    with np.load(EXPECTED) as stored:
        ids = np.split(stored[f"{name}.ids"].astype(np.int64), np.cumsum(stored["lengths"])[:-1])
        return Expected(ids, stored[f"{name}.logits"], float(stored[f"{name}.total"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every checkpoint, and the graphs of their architecture, which they share."""
    folder = tmp_path_factory.mktemp("rerankers")
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    for name in RERANKERS:
        write_variation(name, folder / name, tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        all_plans = tracing.plans
        patch.setattr(tracing, "plans", lambda a: (plan for plan in all_plans(a) if plan.variant in VARIANTS))
        tracing.trace(folder / "reranker", folder / "graphs")
    return folder


def bundle(folder: Path, name: str) -> Path:
    target = folder / f"{name}.bundle"
    if not target.exists():
        build(folder / name, target, graphs=folder / "graphs", variants=VARIANTS)
    return target


def by_engine(
    bundle: Path, variant: str, ids: list[NDArray[np.int64]], *, together: bool
) -> NDArray[np.float32]:
    with Reranker.open(bundle, variant=variant, threads=2) as reranker:
        if together:
            return reranker.engine.run(ids).logits
        return np.concatenate([reranker.engine.run([one]).logits for one in ids])


def error(found: Any, expected: NDArray[np.float32]) -> float:
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", RERANKERS)
def test_the_checkpoint_is_the_one_they_saw(folder: Path, name: str):
    tensors = read_tensors(folder / name / "model.safetensors").values()
    total = sum(float(np.abs(tensor.values().astype(np.float64)).sum()) for tensor in tensors)
    assert total == pytest.approx(read_expected(name).total, rel=1e-9)


@pytest.mark.parametrize("name", RERANKERS)
def test_oracle_and_pytorch(folder: Path, name: str):
    """The judge of every build agrees, and so does the encoder that is traced."""
    expected = read_expected(name)
    with Checkpoint(folder / name) as checkpoint:
        assert error([forward(checkpoint, one).logit for one in expected.ids], expected.logits) <= LIMIT
    assert error(np.concatenate(pytorch_states(folder / name, expected.ids)), expected.logits) <= LIMIT


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", RERANKERS)
def test_engine(folder: Path, name: str, variant: str, together: bool):
    """A built bundle agrees, on each pair by itself and on all of them in one call."""
    expected = read_expected(name)
    assert (
        error(by_engine(bundle(folder, name), variant, expected.ids, together=together), expected.logits)
        <= LIMIT
    )


@pytest.mark.parametrize("theta", [20000.0, 160000.0])
def test_a_wrong_rope_shows(folder: Path, theta: float):
    """The negative control: with the frequencies that ports take for the right ones, the same comparison
    fails.
    """
    expected = read_expected("reranker")
    wrong = folder / f"wrong-{theta:.0f}"
    shutil.copytree(folder / "reranker", wrong)
    config = json.loads((wrong / "config.json").read_text(encoding="utf-8"))
    (wrong / "config.json").write_text(
        json.dumps(config | {"rope_theta": theta, "rope_scaling": None}), encoding="utf-8"
    )
    for variant in VARIANTS:
        assert (
            error(
                by_engine(bundle(folder, wrong.name), variant, expected.ids, together=True), expected.logits
            )
            > WRONG
        )
