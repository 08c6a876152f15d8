"""Compares gte-runtime with PyTorch and sentence-transformers on one NVIDIA GPU, in under eight minutes.

    python benchmarks/gpu.py --checkpoint DIR [--torch-python PYTHON] [--native DIR] [--output PATH]
        [--folder DIR] [--engines a,b]
    python benchmarks/gpu.py --dry

--dry takes the same steps on the CPU with the default model: it tests the script and measures nothing. Run
the script with the Python that has gte-runtime[gpu]. --torch-python names another that has torch for CUDA
(and, to include them, flash-attn and sentence-transformers): the two need different CUDA libraries. --native
is the checkpoint as sentence-transformers loads it. --folder keeps the bundle for the next run. For a peer
that cannot run the reason is recorded. Results are written after every peer, so that an interrupted run keeps
what it has.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from peers.worker import Worker, WorkerFailed
from peers.works import Composer, Work

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
REFERENCE = "gte fp32 on the CPU"
PADDED_TOKENS = 16384
"""Tokens of one padded batch, for peers that do not plan themselves. Texts are sorted by length, for little
padding."""


@dataclass(frozen=True)
class Plan:
    """What is run, on which device, and how long."""

    throughput: dict[str, list[int]]
    latency: tuple[int, ...]
    seconds: float
    """Of one peer on one work."""
    device: str
    compared: int
    """How many texts of a work are compared with float32."""


def lognormal(count: int, median: float, sigma: float, longest: int) -> list[int]:
    """Quantiles, shuffled: the same lengths in every run."""
    z = [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    return (
        np.random.default_rng(3)
        .permutation(np.clip(median * np.exp(sigma * np.array(z)), 3, longest).astype(int))
        .tolist()
    )


REAL = Plan(
    throughput={
        "32x128": [128] * 32,
        "32x512": [512] * 32,
        "4x8192": [8192] * 4,
        "lognormal": lognormal(400, 150, 1.2, 8192),
    },
    latency=(16, 128, 512),
    seconds=4.0,
    device="cuda",
    compared=8,
)
DRY = Plan(
    throughput={
        "4x32": [32] * 4,
        "2x128": [128] * 2,
        "1x1024": [1024],
        "lognormal": lognormal(24, 20, 1.0, 200),
    },
    latency=(16, 128),
    seconds=0.3,
    device="cpu",
    compared=4,
)


@dataclass(frozen=True)
class Peer:
    """One worker: its module, Python and settings."""

    module: str
    python: str
    settings: dict[str, Any]
    padded: bool = False
    """It gets padded batches; the others plan themselves."""
    only_latency: bool = False
    texts: bool = True
    """It takes strings."""


def main() -> None:
    arguments = parse()
    plan = DRY if arguments.dry else REAL
    plan = replace(plan, seconds=arguments.seconds or plan.seconds)
    target = arguments.output or (
        None if arguments.dry else BENCHMARKS / "results" / f"{dt.date.today().isoformat()}-gpu.json"
    )
    with tempfile.TemporaryDirectory() as temporary:
        results: dict[str, Any] = {}
        for results in measure(arguments, plan, arguments.folder or Path(temporary)):
            if target:
                target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if target:
        print(f"written to {target}")
    print(table(results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", type=Path, help="config.json, model.safetensors, tokenizer.json; needed but for --dry"
    )
    parser.add_argument(
        "--torch-python", default=sys.executable, help="a Python with torch; by default this one"
    )
    parser.add_argument("--native", type=Path, help="the checkpoint as sentence-transformers loads it")
    parser.add_argument("--texts", type=Path, default=BENCHMARKS / "texts" / "udhr.txt")
    parser.add_argument(
        "--folder",
        type=Path,
        help="keeps the bundle, which is made only where there is none; by default a temporary one",
    )
    parser.add_argument(
        "--engines",
        type=lambda names: names.split(","),
        help="names or their beginnings, with commas; the reference is always run",
    )
    parser.add_argument("--seconds", type=float, help="of one peer on one work; by default 4")
    parser.add_argument(
        "--output", type=Path, help="JSON; by default results/<date>-gpu.json, and nowhere for --dry"
    )
    parser.add_argument(
        "--dry", action="store_true", help="on the CPU, with the default model and small shapes"
    )
    arguments = parser.parse_args()
    if arguments.dry:
        arguments.checkpoint = arguments.checkpoint or ROOT / "models" / "gte-mini"
    elif arguments.checkpoint is None:
        parser.error("--checkpoint is needed; --dry runs without one")
    python = shutil.which(arguments.torch_python)
    if python is None:
        parser.error(f"--torch-python {arguments.torch_python}: no such program")
    # Workers run in another directory. Not resolved: an environment's Python is a link.
    arguments.torch_python = str(Path(python).absolute())
    arguments.checkpoint = arguments.checkpoint.absolute()
    arguments.native = arguments.native and arguments.native.absolute()
    if arguments.folder:
        arguments.folder = arguments.folder.absolute()
        arguments.folder.mkdir(parents=True, exist_ok=True)
    return arguments


def measure(arguments: argparse.Namespace, plan: Plan, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the results so far after every peer."""
    start = time.perf_counter()
    bundle = build_bundle(arguments.checkpoint, folder, plan)
    works = make_works(arguments, plan)
    (folder / "works.json").write_text(
        json.dumps({name: {"texts": work.texts, "ids": work.ids} for name, work in works.items()})
    )
    results: dict[str, Any] = {
        "dry": arguments.dry,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        **about(),
        "limits": limits(arguments.torch_python, plan.device),
        "works": {
            name: {"texts": len(work.ids), "tokens": sum(work.lengths), "flop": work.flop}
            for name, work in works.items()
        },
        "engines": {},
    }
    if arguments.dry:
        results["note"] = (
            "dry: small shapes of the default model on a CPU. These are not measurements of anything."
        )
    rows: dict[str, Any] = {}
    chosen = {
        name: peer
        for name, peer in all_peers(arguments, plan, bundle).items()
        if name == REFERENCE or arguments.engines is None or name.startswith(tuple(arguments.engines))
    }
    for name, peer in chosen.items():
        print(f"{time.perf_counter() - start:6.0f} s  {name}", file=sys.stderr, flush=True)
        results["engines"][name] = run_peer(name, peer, plan, works, folder, rows)
        yield results | {"seconds": round(time.perf_counter() - start, 1)}


def build_bundle(checkpoint: Path, folder: Path, plan: Plan) -> Path:
    from gte_runtime.building.build import build
    from gte_runtime.format.recipe import FILE

    graphs = checkpoint if (checkpoint / FILE).exists() else None
    variants = (
        ("cpu-fp32", "cuda-fp16", "portable-fp16") if plan.device == "cuda" else ("cpu-fp32", "portable-fp32")
    )
    if (folder / "bundle").exists():
        return folder / "bundle"
    build(checkpoint, folder / "bundle", graphs=graphs, variants=variants, ignore_unused=True)
    return folder / "bundle"


def make_works(arguments: argparse.Namespace, plan: Plan) -> dict[str, Work]:
    composer = Composer(arguments.texts, arguments.checkpoint / "tokenizer.json")
    lengths = plan.throughput | {f"1x{length}": [length] for length in plan.latency}
    return {name: composer.work(wanted) for name, wanted in lengths.items()}


def all_peers(arguments: argparse.Namespace, plan: Plan, bundle: Path) -> dict[str, Peer]:
    """All peers, the reference first: the others are compared with it."""
    tokenizer = str(arguments.checkpoint / "tokenizer.json")
    ours = {"bundle": str(bundle), "threads": os.cpu_count(), "tokenizer": tokenizer}
    torch = {"checkpoint": str(arguments.checkpoint), "device": plan.device, "tokenizer": tokenizer}
    here, there = sys.executable, arguments.torch_python
    found = {REFERENCE: Peer("peers.gte", here, {**ours, "variant": "cpu-fp32"})}
    if plan.device == "cuda":
        on_gpu = {**ours, "provider": "cuda"}
        found["gte cuda-fp16"] = Peer("peers.gte", here, {**on_gpu, "variant": "cuda-fp16"})
        found["gte cuda-fp16, latency mode"] = Peer(
            "peers.gte", here, {**on_gpu, "variant": "cuda-fp16", "latency": True}, only_latency=True
        )
        found["plain operators, padded, CUDA provider"] = Peer(
            "peers.gte", here, {**on_gpu, "variant": "portable-fp16"}
        )
    else:
        found["plain operators, padded, CPU provider"] = Peer(
            "peers.gte", here, {**ours, "variant": "portable-fp32"}
        )
    for label, kind in (
        ("SDPA, padded", "sdpa"),
        ("FlashAttention, varlen", "flash"),
        ("torch.compile", "compile"),
    ):
        found[f"PyTorch {label}"] = Peer(
            "peers.gpu_torch", there, {**torch, "attention": kind}, padded=kind != "flash"
        )
    native = None if arguments.native is None else str(arguments.native)
    found["sentence-transformers"] = Peer(
        "peers.gpu_sentence_transformers",
        there,
        {"native": native, "device": plan.device, "tokenizer": tokenizer},
        padded=True,
    )
    return found


def run_peer(
    name: str, peer: Peer, plan: Plan, works: dict[str, Work], folder: Path, rows: dict[str, Any]
) -> dict[str, Any]:
    """Times and cosines of one peer, or the reason why it cannot run."""
    if peer.settings.get("native", "") is None:
        return {"not_run": "no --native checkpoint was named"}
    if peer.settings.get("attention") == "compile" and plan.device == "cpu":
        return {"not_run": "left out of the dry run: compiling for a CPU takes minutes"}
    log = folder / f"{name.replace(' ', '-').replace(',', '')}.log"
    paths = os.pathsep.join(
        filter(
            None, (*map(str, (BENCHMARKS, ROOT / "export", ROOT / "runtime")), os.environ.get("PYTHONPATH"))
        )
    )
    worker = Worker([peer.python, "-m", peer.module], os.environ | {"PYTHONPATH": paths}, BENCHMARKS, log)
    try:
        loaded = worker.ask("load", settings=peer.settings)
        found: dict[str, Any] = {"seconds_to_load": loaded["seconds"], "notes": loaded["notes"]}
        found["versions"] = worker.ask("works", path=str(folder / "works.json"))["versions"]
        if name != REFERENCE and not peer.only_latency:
            found["throughput"] = {
                work: throughput(worker, peer, plan, works[work], work) for work in plan.throughput
            }
        if name != REFERENCE:
            found["latency"] = {
                f"1x{length}": latency(worker, plan, f"1x{length}") for length in plan.latency
            }
        found["cosine"] = {
            work: parity(worker, name, plan, works[work], work, folder, rows) for work in works
        }
        if name == "gte cuda-fp16" or plan.device == "cpu":
            found["batch_invariance"] = batch_invariance(worker, works, "lognormal", folder)
        found["vram_mb"] = vram(worker.pid) if plan.device == "cuda" else None
    except WorkerFailed as failure:
        return {"not_run": str(failure)}
    finally:
        worker.stop()
    return found


def throughput(worker: Worker, peer: Peer, plan: Plan, work: Work, name: str) -> dict[str, Any]:
    groups = batches(work.lengths) if peer.padded else [list(range(len(work.ids)))]
    times = timed(lambda: worker.ask("run", work=name, input="ids", groups=groups)["ms"], plan.seconds)
    middle = statistics.median(times)
    return {
        "ms": middle,
        "runs": len(times),
        "tokens_per_second": sum(work.lengths) / middle * 1e3,
        "batches": len(groups),
    }


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Padded batches of at most PADDED_TOKENS tokens, sorted by length."""
    made: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if made and (len(made[-1]) + 1) * lengths[made[-1][0]] <= PADDED_TOKENS:
            made[-1].append(row)
        else:
            made.append([row])
    return made


def latency(worker: Worker, plan: Plan, name: str) -> dict[str, Any]:
    """Milliseconds from a string to its vector, one call after the other."""
    times = sorted(timed(lambda: worker.ask("run", work=name, input="texts")["ms"], plan.seconds))
    return {"p50": times[len(times) // 2], "p95": times[int(len(times) * 0.95)], "runs": len(times)}


def timed(run: Any, seconds: float) -> list[float]:
    for _ in range(3):
        run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        times.append(run())
    return times


def parity(
    worker: Worker, name: str, plan: Plan, work: Work, key: str, folder: Path, rows: dict[str, Any]
) -> dict[str, Any]:
    """Smallest cosine to float32 of the first texts of a work, or of its longest text if it has one of 8192
    tokens."""
    chosen = (
        list(range(min(plan.compared, len(work.ids))))
        if max(work.lengths) < 8192
        else [int(np.argmax(work.lengths))]
    )
    path = folder / "rows.npy"
    worker.ask("run", work=key, input="ids", groups=[[row] for row in chosen], rows=str(path)) if len(
        chosen
    ) == len(work.ids) else None
    if len(chosen) != len(work.ids):
        texts = [work.texts[row] for row in chosen]
        worker.ask(
            "run", texts=texts, input="texts", groups=[[row] for row in range(len(texts))], rows=str(path)
        )
    found = np.load(path)
    reference = rows.setdefault(key, found) if name == REFERENCE else rows[key]
    return {
        "texts": len(chosen),
        "min": float((found * reference).sum(1).min()),
        "finite": bool(np.isfinite(found).all()),
    }


def batch_invariance(worker: Worker, works: dict[str, Work], key: str, folder: Path) -> dict[str, Any]:
    """How far the normalised vectors of texts in a batch differ from those of the texts alone."""
    path, count = folder / "rows.npy", len(works[key].ids)
    worker.ask("run", work=key, input="ids", groups=[[row] for row in range(count)], rows=str(path))
    alone = np.load(path)
    worker.ask("run", work=key, input="ids", groups=[list(range(count))], rows=str(path))
    batched = np.load(path)
    return {
        "work": key,
        "largest_difference": float(np.abs(alone - batched).max()),
        "min_cosine": float((alone * batched).sum(1).min()),
    }


def vram(process: int) -> float | None:
    """MB that a process uses on the GPU, as the driver counts."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    pairs = [line.split(",") for line in lines if "," in line]
    return next((float(used) for pid, used in pairs if int(pid) == process), None)


def limits(python: str, device: str) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-m", "peers.gpu_limits", device],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"not_run": (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def about() -> dict[str, Any]:
    from gte_runtime.bench.machine import hardware, versions
    from gte_runtime.machine.gpus import devices

    found = devices()
    gpus = [
        f"{gpu.name}, compute capability {gpu.capability}, {gpu.memory / 2**30:.0f} GiB" for gpu in found.gpus
    ]
    return {"hardware": hardware() | {"gpus": gpus, "driver": found.driver}, "versions": versions()}


def table(results: dict[str, Any]) -> str:
    """The results as text, and why the rest was not measured."""
    lines = [results["note"], ""] if "note" in results else []
    peak = results["limits"].get("matmul_tflops")
    for name, peer in results["engines"].items():
        if "not_run" in peer:
            lines.append(f"{name}: not run: {peer['not_run']}")
            continue
        lines.append(
            f"{name}: smallest cosine to fp32 {min(work['min'] for work in peer['cosine'].values()):.6f}"
        )
        for work, cell in peer.get("throughput", {}).items():
            share = (
                f", {results['works'][work]['flop'] / cell['ms'] * 1e-9 / peak:.0%} of matmul"
                if peak and not results["dry"]
                else ""
            )
            lines.append(
                f"  {work:<10} {cell['tokens_per_second']:>12,.0f} tokens/s  {cell['ms']:>9.2f} ms{share}"
            )
        for work, cell in peer.get("latency", {}).items():
            lines.append(
                f"  {work:<10} p50 {cell['p50']:>8.3f} ms  p95 {cell['p95']:>8.3f} ms, string to vector"
            )
        if "batch_invariance" in peer:
            lines.append(
                "  a row alone and in a batch: differs by "
                f"{peer['batch_invariance']['largest_difference']:.1e} at most"
            )
    lines.append(f"limits: {json.dumps(results['limits'])}")
    lines.append(f"{results['seconds']} s")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
