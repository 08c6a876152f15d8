"""This engine beside PyTorch and sentence-transformers on one NVIDIA GPU, in one run of under eight minutes.

    python benchmarks/gpu.py --checkpoint DIR [--torch-python PYTHON] [--native DIR] [--output PATH] [--folder DIR] [--engines a,b]
    python benchmarks/gpu.py --dry        the same steps on the CPU with the default model: proves the script, measures nothing

Run it with the Python that has gte-runtime[gpu]. --torch-python names another that has torch for CUDA (and flash-attn and
sentence-transformers, where those are to take part): the two bring different CUDA libraries. --native is the checkpoint as
sentence-transformers loads it. --folder keeps the bundle for the next run. What cannot run is named with its reason; nothing is
filled in for it. Results are written after every engine, so that a run which is cut off leaves what it had.
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
from peers.works import Work, _Composer

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
REFERENCE = "gte fp32 on the CPU"
PADDED_TOKENS = 16384
"""Tokens of one padded batch, for engines that take what they are given; sorted by length, so that little is padded."""


@dataclass(frozen=True)
class Plan:
    """What is run: shapes, where each is timed, and how long."""

    throughput: dict[str, list[int]]
    latency: tuple[int, ...]
    seconds: float
    """Of one engine on one work."""
    device: str
    compared: int
    """Texts of a work, the first ones, whose vectors are compared with float32."""


def lognormal(count: int, median: float, sigma: float, longest: int) -> list[int]:
    """Quantiles, shuffled: the same lengths in every run."""
    z = [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    return (
        np.random.default_rng(3)
        .permutation(np.clip(median * np.exp(sigma * np.array(z)), 3, longest).astype(int))
        .tolist()
    )


REAL = Plan(
    throughput={"32x128": [128] * 32, "32x512": [512] * 32, "4x8192": [8192] * 4, "lognormal": lognormal(400, 150, 1.2, 8192)},
    latency=(16, 128, 512), seconds=4.0, device="cuda", compared=8,
)  # fmt: skip
DRY = Plan(
    throughput={"4x32": [32] * 4, "2x128": [128] * 2, "1x1024": [1024], "lognormal": lognormal(24, 20, 1.0, 200)},
    latency=(16, 128), seconds=0.3, device="cpu", compared=4,
)  # fmt: skip


@dataclass(frozen=True)
class Engine:
    """One worker: its module, its Python, its settings."""

    module: str
    python: str
    settings: dict[str, Any]
    padded: bool = False
    """Batches are made for it; the others plan for themselves."""
    only_latency: bool = False
    texts: bool = True
    """Takes strings."""


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
        help="those whose names begin so; the reference is always run",
    )
    parser.add_argument("--seconds", type=float, help="of one engine on one work; by default 4")
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
    """The results so far, after every engine."""
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
        name: engine
        for name, engine in engines(arguments, plan, bundle).items()
        if name == REFERENCE or arguments.engines is None or name.startswith(tuple(arguments.engines))
    }
    for name, engine in chosen.items():
        print(f"{time.perf_counter() - start:6.0f} s  {name}", file=sys.stderr, flush=True)
        results["engines"][name] = run_engine(name, engine, plan, works, folder, rows)
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
    composer = _Composer(arguments.texts, arguments.checkpoint / "tokenizer.json")
    lengths = plan.throughput | {f"1x{length}": [length] for length in plan.latency}
    return {name: composer.work(wanted) for name, wanted in lengths.items()}


def engines(arguments: argparse.Namespace, plan: Plan, bundle: Path) -> dict[str, Engine]:
    """The reference first: the others are compared with its rows."""
    tokenizer = str(arguments.checkpoint / "tokenizer.json")
    ours = {"bundle": str(bundle), "threads": os.cpu_count(), "tokenizer": tokenizer}
    torch = {"checkpoint": str(arguments.checkpoint), "device": plan.device, "tokenizer": tokenizer}
    here, there = sys.executable, arguments.torch_python
    found = {REFERENCE: Engine("peers.gte", here, {**ours, "variant": "cpu-fp32"})}
    if plan.device == "cuda":
        on_gpu = {**ours, "provider": "cuda"}
        found["gte cuda-fp16"] = Engine("peers.gte", here, {**on_gpu, "variant": "cuda-fp16"})
        found["gte cuda-fp16, latency mode"] = Engine(
            "peers.gte", here, {**on_gpu, "variant": "cuda-fp16", "latency": True}, only_latency=True
        )
        found["plain operators, padded, CUDA provider"] = Engine(
            "peers.gte", here, {**on_gpu, "variant": "portable-fp16"}
        )
    else:
        found["plain operators, padded, CPU provider"] = Engine(
            "peers.gte", here, {**ours, "variant": "portable-fp32"}
        )
    for label, kind in (
        ("SDPA, padded", "sdpa"),
        ("FlashAttention, varlen", "flash"),
        ("torch.compile", "compile"),
    ):
        found[f"PyTorch {label}"] = Engine(
            "peers.gpu_torch", there, {**torch, "attention": kind}, padded=kind != "flash"
        )
    native = None if arguments.native is None else str(arguments.native)
    found["sentence-transformers"] = Engine(
        "peers.gpu_sentence_transformers",
        there,
        {"native": native, "device": plan.device, "tokenizer": tokenizer},
        padded=True,
    )
    return found


def run_engine(
    name: str, engine: Engine, plan: Plan, works: dict[str, Work], folder: Path, rows: dict[str, Any]
) -> dict[str, Any]:
    """Times and cosines of one engine; where it cannot run, the reason."""
    if engine.settings.get("native", "") is None:
        return {"not_run": "no --native checkpoint was named"}
    if engine.settings.get("attention") == "compile" and plan.device == "cpu":
        return {"not_run": "left out of the dry run: compiling for a CPU takes minutes"}
    log = folder / f"{name.replace(' ', '-').replace(',', '')}.log"
    paths = os.pathsep.join(
        filter(
            None, (*map(str, (BENCHMARKS, ROOT / "export", ROOT / "runtime")), os.environ.get("PYTHONPATH"))
        )
    )
    worker = Worker([engine.python, "-m", engine.module], os.environ | {"PYTHONPATH": paths}, BENCHMARKS, log)
    try:
        loaded = worker.ask("load", settings=engine.settings)
        found: dict[str, Any] = {"seconds_to_load": loaded["seconds"], "notes": loaded["notes"]}
        found["versions"] = worker.ask("works", path=str(folder / "works.json"))["versions"]
        if name != REFERENCE and not engine.only_latency:
            found["throughput"] = {
                work: throughput(worker, engine, plan, works[work], work) for work in plan.throughput
            }
        if name != REFERENCE:
            found["latency"] = {
                f"1x{length}": latency(worker, plan, f"1x{length}") for length in plan.latency
            }
        found["cosine"] = {
            work: parity(worker, name, plan, works[work], work, folder, rows) for work in works
        }
        if name == "gte cuda-fp16" or plan.device == "cpu":
            found["company"] = company(worker, works, "lognormal", folder)
        found["vram_mb"] = vram(worker._process.pid) if plan.device == "cuda" else None
    except WorkerFailed as failure:
        return {"not_run": str(failure)}
    finally:
        worker.stop()
    return found


def throughput(worker: Worker, engine: Engine, plan: Plan, work: Work, name: str) -> dict[str, Any]:
    groups = batches(work.lengths) if engine.padded else [list(range(len(work.ids)))]
    times = timed(lambda: worker.ask("run", work=name, input="ids", groups=groups)["ms"], plan.seconds)
    middle = statistics.median(times)
    return {
        "ms": middle,
        "runs": len(times),
        "tokens_per_second": sum(work.lengths) / middle * 1e3,
        "batches": len(groups),
    }


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Sorted by length, so many padded tokens each."""
    made: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if made and (len(made[-1]) + 1) * lengths[made[-1][0]] <= PADDED_TOKENS:
            made[-1].append(row)
        else:
            made.append([row])
    return made


def latency(worker: Worker, plan: Plan, name: str) -> dict[str, Any]:
    """A string in, a vector out, one after the other."""
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
    """Smallest cosine to float32 of a work's first texts. All of a short text, and of the longest there are."""
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


def company(worker: Worker, works: dict[str, Work], key: str, folder: Path) -> dict[str, Any]:
    """How far a text's normalised vector moves between running alone and in a batch."""
    path, count = folder / "rows.npy", len(works[key].ids)
    worker.ask("run", work=key, input="ids", groups=[[row] for row in range(count)], rows=str(path))
    alone = np.load(path)
    worker.ask("run", work=key, input="ids", groups=[list(range(count))], rows=str(path))
    together = np.load(path)
    return {
        "work": key,
        "largest_difference": float(np.abs(alone - together).max()),
        "min_cosine": float((alone * together).sum(1).min()),
    }


def vram(process: int) -> float | None:
    """MB that a process holds on the GPU, as the driver counts."""
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
    """What was measured, and why the rest was not."""
    lines = [results["note"], ""] if "note" in results else []
    peak = results["limits"].get("matmul_tflops")
    for name, engine in results["engines"].items():
        if "not_run" in engine:
            lines.append(f"{name}: not run: {engine['not_run']}")
            continue
        lines.append(
            f"{name}: smallest cosine to fp32 {min(work['min'] for work in engine['cosine'].values()):.6f}"
        )
        for work, cell in engine.get("throughput", {}).items():
            share = (
                f", {results['works'][work]['flop'] / cell['ms'] * 1e-9 / peak:.0%} of matmul"
                if peak and not results["dry"]
                else ""
            )
            lines.append(
                f"  {work:<10} {cell['tokens_per_second']:>12,.0f} tokens/s  {cell['ms']:>9.2f} ms{share}"
            )
        for work, cell in engine.get("latency", {}).items():
            lines.append(
                f"  {work:<10} p50 {cell['p50']:>8.3f} ms  p95 {cell['p95']:>8.3f} ms, string to vector"
            )
        if "company" in engine:
            lines.append(
                f"  a row alone and in a batch: differs by {engine['company']['largest_difference']:.1e} at most"
            )
    lines.append(f"limits: {json.dumps(results['limits'])}")
    lines.append(f"{results['seconds']} s")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
