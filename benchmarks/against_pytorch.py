"""Compares gte-runtime with the PyTorch encoder it was traced from, on one machine, in one run.

    python benchmarks/against_pytorch.py TOKENIZER_JSON [--folder DIR]

Makes a checkpoint of the full architecture with random float16 weights, builds it, and measures the memory of
the build and of one text of 8192 tokens, the agreement of results, and the time by length, interleaved. Needs
gte-export. Prints a table and writes JSON into benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
LENGTHS = (16, 128, 512, 2048, 8192)
PARITY_LENGTHS = (2, 3, 17, 63, 127, 128, 129, 512)
REPEATS = {16: 9, 128: 7, 512: 5, 2048: 3, 8192: 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument(
        "--folder", type=Path, help="Where the checkpoint and bundle go; kept for the next run."
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        results = measure(folder, arguments.tokenizer, arguments.threads)
    name = f"{dt.date.today().isoformat()}-against-pytorch.json"
    (ROOT / "benchmarks/results" / name).write_text(json.dumps(results, indent=1) + "\n")
    report(results)


def measure(folder: Path, tokenizer: Path, threads: int) -> dict[str, Any]:
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    if not checkpoint.exists():
        from gte_export.random_checkpoint import write_random_checkpoint

        config = json.loads((ROOT / "models/gte-multilingual-base/config.json").read_text())
        write_random_checkpoint(checkpoint, config, tokenizer=tokenizer)
    results: dict[str, Any] = {"date": dt.date.today().isoformat(), "machine": machine(), "threads": threads}
    if not bundle.exists():
        results["build"] = child(BUILD, checkpoint, bundle)
    results["memory"] = child(MEMORY, bundle, threads)
    return results | compare(checkpoint, bundle, threads)


def machine() -> dict[str, str]:
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    return {"cpu": model, "python": platform.python_version()} | {
        p: version(p) for p in ("onnxruntime", "torch", "tokenizers", "numpy")
    }


BUILD = """
import json, resource, sys, time
from pathlib import Path
from gte_runtime.building.build import build
start = time.perf_counter()
build(Path(sys.argv[1]), Path(sys.argv[2]))
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(json.dumps({"seconds": seconds, "peak_rss_mb": peak}))
"""

MEMORY = """
import json, resource, sys, time
import psutil
from gte_runtime import Embedder
rss = lambda: psutil.Process().memory_info().rss / 1e6
start = time.perf_counter()
gte = Embedder.open(sys.argv[1], threads=int(sys.argv[2]))
opened = time.perf_counter() - start
gte.encode("warm up")
loaded = rss()
tokens = gte.encode("word " * 9000).tokens
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
memory = {"loaded_rss_mb": loaded, "over_loaded_mb": peak - loaded}
print(json.dumps({"open_seconds": opened, "longest_tokens": int(tokens[0])} | memory))
"""


def child(code: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def compare(checkpoint: Path, bundle: Path, threads: int) -> dict[str, Any]:
    """Parity and time of the same tokens; each repeat runs both, one after the other."""
    import torch

    from gte_export.attention.sdpa import SdpaAttention
    from gte_export.encoders.float import Encoder
    from gte_runtime.bundle.directory import Bundle
    from gte_runtime.checkpoint.tensors import Checkpoint
    from gte_runtime.device.cpu import CpuSession
    from gte_runtime.inference.batch import make_batch

    torch.set_num_threads(threads)
    opened = Bundle.open(bundle)
    variant = opened.variant("cpu-fp32")
    session = CpuSession(
        opened.read(variant.graph), bundle, variant, opened.manifest.architecture.hidden_size, threads=threads
    )
    with Checkpoint(checkpoint) as weights:
        a = weights.config.architecture
        encoder = Encoder(a, SdpaAttention(a)).eval().load(weights)
    rng = np.random.default_rng(0)

    def ours(ids: np.ndarray) -> np.ndarray:
        return session.run(make_batch(np.array([0]), [ids], variant.flash_from)).cls[0]

    def eager(ids: np.ndarray) -> np.ndarray:
        tokens = torch.from_numpy(ids)[None]
        with torch.inference_mode():
            return encoder(input_ids=tokens, position_ids=torch.arange(len(ids))[None])["cls"][0].numpy()

    parity = {}
    for length in PARITY_LENGTHS:
        ids = rng.integers(0, 250002, length)
        expected = eager(ids)
        parity[length] = float(np.abs(ours(ids) - expected).max() / np.abs(expected).max())
    times = {}
    for length in LENGTHS:
        ids = rng.integers(0, 250002, length)
        times[length] = interleaved(
            {"gte": lambda ids=ids: ours(ids), "torch": lambda ids=ids: eager(ids)}, REPEATS[length]
        )
    session.close()
    return {"parity_to_largest": parity, "milliseconds": times}


def interleaved(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, after one warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if repeat:
                taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: round(statistics.median(values), 1) for name, values in taken.items()}


def report(results: dict[str, Any]) -> None:
    print(
        json.dumps(
            {
                key: value
                for key, value in results.items()
                if key not in ("milliseconds", "parity_to_largest")
            },
            indent=1,
        )
    )
    print(
        "largest difference to PyTorch, as a share of the largest value:",
        f"{max(results['parity_to_largest'].values()):.1e}",
    )
    print(f"{'tokens':>8}{'gte fp32 ms':>14}{'PyTorch fp32 ms':>18}{'ratio':>8}")
    for length, row in results["milliseconds"].items():
        print(f"{length:>8}{row['gte']:>14}{row['torch']:>18}{row['torch'] / row['gte']:>8.2f}")


if __name__ == "__main__":
    main()
