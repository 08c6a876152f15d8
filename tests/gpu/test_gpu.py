"""What only a GPU can tell: numbers. Run by `make test-gpu`, on one or more NVIDIA GPUs; skipped without."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from golden import Golden
from numpy.typing import NDArray

from gte_runtime import Embedder
from gte_runtime.building.build import build
from gte_runtime.building.judge import judge
from gte_runtime.bundle.directory import Bundle
from gte_runtime.device.cuda import CudaOptions, CudaSession
from gte_runtime.inference.batch import make_batch
from gte_runtime.inference.plan import Budget
from gte_runtime.machine.gpus import devices


def _missing() -> str | None:
    try:
        metadata.version("onnxruntime-gpu")
    except metadata.PackageNotFoundError:
        return "onnxruntime-gpu is not installed (make test-gpu)"
    return None if devices().gpus else f"no GPU: {devices().problem}"


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_missing() is not None, reason=str(_missing()))]

MINI = Path(__file__).parents[2] / "models" / "gte-mini"
COSINE = 0.9999


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model: for CUDA, and in float32 to compare with."""
    target = tmp_path_factory.mktemp("gpu") / "gte-mini"
    build(MINI, target, graphs=MINI, variants=("cpu-fp32", "cuda-fp16", "portable-fp16"))
    return target


@pytest.fixture(scope="module")
def session(bundle: Path) -> Iterator[CudaSession]:
    opened = Bundle.open(bundle)
    variant = opened.variant("cuda-fp16")
    made = CudaSession(opened.read(variant.graph), bundle, variant, opened.manifest.architecture.hidden_size)
    yield made
    made.close()


def ids_of(rng: np.random.Generator, lengths: list[int]) -> list[NDArray[np.int64]]:
    return [rng.integers(4, 1000, length) for length in lengths]


def cosines(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    product: NDArray[np.float32] = (
        (found * expected).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
    )
    return product


def test_upstream_outputs(golden: Golden, tmp_path: Path):
    """The golden checkpoint: a load already compares with the oracle; here every text with what upstream's
    code says.
    """
    build(golden.checkpoint, tmp_path / "bundle", graphs=golden.graphs, variants=("cuda-fp16",))
    with Embedder.open(tmp_path / "bundle", provider="cuda") as gte:
        assert cosines(gte.states(golden.texts), golden.cls()).min() >= COSINE


def test_every_length_against_float32(bundle: Path):
    """From 2 tokens to the longest, in one mixed call: finite, and within the bound of float32 on the CPU."""
    words = "the river runs past an old mill while rain falls on red roofs "
    texts = [words * count for count in (0, 1, 2, 5, 10, 40, 100, 600)]
    with Embedder.open(bundle, provider="cuda") as gpu, Embedder.open(bundle, variant="cpu-fp32") as cpu:
        found, expected = gpu.encode(texts), cpu.encode(texts)
    assert np.isfinite(found.dense).all()
    assert (found.dense * expected.dense).sum(-1).min() >= COSINE


def test_the_evaluator_foretells_the_gpu(bundle: Path, session: CudaSession):
    """Numpy, which judged the build, and the kernels differ by float16's rounding only."""
    judged = judge(bundle, Bundle.open(bundle).manifest, "cuda-fp16")
    ids = ids_of(np.random.default_rng(0), [2, 17, 64, 65, 300])
    batch = make_batch(np.arange(len(ids)), ids, 128)
    assert cosines(session.run(batch).cls, judged.run(batch).cls).min() >= COSINE


def test_cuda_graphs_give_what_eager_runs_give(bundle: Path):
    """Latency mode: every length up to the largest bucket and one beyond, replayed with other contents each
    time.
    """
    opened = Bundle.open(bundle)
    variant = opened.variant("cuda-fp16")
    made = [
        CudaSession(
            opened.read(variant.graph),
            bundle,
            variant,
            opened.manifest.architecture.hidden_size,
            CudaOptions(latency=latency),
        )
        for latency in (False, True)
    ]
    rng = np.random.default_rng(1)
    for lengths in ([2], [16], [17], [5, 9, 12], [64], [100, 20], [512], [513]):
        for _ in range(2):
            ids = ids_of(rng, lengths)
            batch = make_batch(np.arange(len(ids)), ids, 128)
            eager, replayed = (one.run(batch) for one in made)
            assert cosines(replayed.cls, eager.cls).min() >= COSINE
    for one in made:
        one.close()


def test_a_row_in_other_company_stays_within_the_bound(session: CudaSession):
    """cuBLAS may choose another algorithm for another number of tokens, so bits are not promised; the bound
    is.
    """
    rng = np.random.default_rng(2)
    text = ids_of(rng, [40])[0]
    alone = session.run(make_batch(np.arange(1), [text], 128)).cls
    for _ in range(20):
        others = ids_of(rng, rng.integers(2, 400, rng.integers(1, 60)).tolist())
        row = session.run(make_batch(np.arange(len(others) + 1), [text, *others], 128)).cls[:1]
        assert cosines(row, alone).min() >= COSINE


def test_two_thousand_ragged_shapes(session: CudaSession):
    """Memory reaches a plateau."""
    rng = np.random.default_rng(3)
    used = []
    for number in range(2000):
        lengths = np.clip(rng.lognormal(4.5, 1, rng.integers(1, 64)), 2, 512).astype(int).tolist()
        ids = ids_of(rng, lengths)
        assert np.isfinite(session.run(make_batch(np.arange(len(ids)), ids, 128)).cls).all()
        if number % 100 == 99:
            used.append(_memory())
    assert min(used) > 0, "nvidia-smi does not name this process, so nothing was measured"
    assert max(used[10:]) <= 1.05 * max(used[:10])


def _memory() -> int:
    """MB that this process holds: others may use the card too."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(
        int(used) for process, used in (line.split(",") for line in lines) if int(process) == os.getpid()
    )


def test_a_batch_that_does_not_fit(bundle: Path):
    """Under a limit, a call larger than memory comes out whole, and so does the next one."""
    with Embedder.open(
        bundle, provider="cuda", gpu_mem_limit=120_000_000, budget=Budget(max_tokens=200_000)
    ) as gte:
        words = "the river runs past an old mill while rain falls on red roofs " * 8
        assert np.isfinite(gte.encode([words] * 600).dense).all()
        assert np.isfinite(gte.encode("short").dense).all()


def test_callers_side_by_side(bundle: Path):
    """Eight threads on all GPUs there are: every caller gets its own rows."""
    found: dict[int, NDArray[np.float32]] = {}
    with Embedder.open(bundle, provider="cuda", devices=[gpu.index for gpu in devices().gpus]) as gte:
        texts = [f"text number {number}" for number in range(8)]
        expected = gte.encode(texts).dense

        def work(number: int) -> None:
            found[number] = gte.encode([texts[number]] * 20).dense

        workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for number, rows in found.items():
        assert cosines(rows, expected[number]).min() >= COSINE
