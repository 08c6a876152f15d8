"""Compares gte-runtime with everything a user could choose instead, on one processor, in one run.

    python benchmarks/cpu.py --tokenizer TOKENIZER_JSON [--folder DIR] [--engines a,b] [--works a,b]
        [--threads 2] [--repeats 5]

Makes the environments and models of all peers under --folder (about 9 GB, kept for the next run), loads them
as idle workers and lets them run in turns. Writes JSON, a table and a plot into benchmarks/results/.
README.md in this folder says what is measured and how the comparison is kept fair.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peers import report
from peers.engines import BENCHMARKS, ROOT, Peer, StepFailed, Unavailable, Workshop, all_peers, prepare
from peers.worker import Worker, WorkerFailed
from peers.works import FIXED, MIXES, REPEATS, Work, batchings, make_works, plan

SETTLE = 0.2
"""Seconds between two turns, so that spinning threads have gone to sleep. Those of ONNX Runtime spin for
50 ms (NOTES-cpu.md)."""
FIRST_TEXT = "What is the capital of China?"


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        results = measure(arguments, folder)
        name = arguments.output or BENCHMARKS / "results" / f"{dt.date.today().isoformat()}-cpu"
        Path(f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
        Path(f"{name}.md").write_text(report.markdown(results))
        print(report.markdown(results))
        plot(
            Workshop(folder, arguments.tokenizer, arguments.threads),
            Path(f"{name}.json"),
            Path(f"{name}.png"),
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json of XLM-R's kind")
    parser.add_argument("--folder", type=Path, help="where environments and models go; kept for the next run")
    parser.add_argument("--engines", help="names, with commas; by default all")
    parser.add_argument(
        "--works", default=",".join((*FIXED, *MIXES)), help="names, with commas; by default all"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--repeats", type=int, default=5, help="of 8x128; the other works take a multiple of it"
    )
    parser.add_argument(
        "--longest",
        type=float,
        default=60,
        help="seconds of one engine on one work: turns are left out to keep to it",
    )
    parser.add_argument(
        "--starts",
        type=int,
        default=3,
        help="fresh processes per engine for start and memory; 0 leaves them out",
    )
    parser.add_argument(
        "--memory", type=int, help="MB for engines side by side; by default 70 %% of what is free"
    )
    parser.add_argument(
        "--texts",
        type=Path,
        default=BENCHMARKS / "texts/udhr.txt",
        help="paragraphs, one a line, to cut works from",
    )
    parser.add_argument("--output", type=Path, help="results go to this path plus .json, .md, .png")
    return parser.parse_args()


@dataclass(slots=True)
class Runner:
    """A loaded peer and what was measured of it."""

    peer: Peer
    worker: Worker
    works: dict[str, Work]
    rows: Path
    longest: float
    turns: dict[str, int] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    batching: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def run(self, work: str, batching: str | None = None, keep: str = "") -> float:
        """Milliseconds of one turn; `keep` names a file for the rows."""
        chosen = batching or self.batching.get(work)
        groups = plan(chosen, self.works[work].lengths) if chosen and not self.peer.ours else None
        if self.peer.ours and chosen == "one by one":
            groups = [[row] for row in range(len(self.works[work].ids))]
        rows = str(self.rows / f"{self.peer.name}.{keep}.npy") if keep else None
        what = "ids" if work in FIXED and self.peer.takes_ids else "texts"
        return float(self.worker.ask("run", work=work, groups=groups, input=what, rows=rows)["ms"])

    def turn(self, work: str, keep: str = "") -> None:
        self.times.setdefault(work, []).append(self.run(work, keep=keep))

    def kept(self, keep: str) -> np.ndarray | None:
        path = self.rows / f"{self.peer.name}.{keep}.npy"
        return np.load(path) if path.exists() else None


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    shop = Workshop(folder, arguments.tokenizer.resolve(), arguments.threads)
    works = make_works(arguments.texts, arguments.tokenizer)
    shop.works.write_text(json.dumps({name: asdict(work) for name, work in works.items()}))
    wanted = [name for name in arguments.works.split(",") if name]
    if unknown := set(wanted) - set(REPEATS):
        sys.exit(f"unknown works: {', '.join(sorted(unknown))}; known: {', '.join(REPEATS)}")
    peers, unavailable = choose(arguments.engines, shop)
    limits = machine_limits(shop)
    started = {peer.name: start(peer, shop, arguments.starts) for peer in peers}
    groups = side_by_side(peers, arguments.memory or int(0.7 * free_memory()))
    found: dict[str, Any] = {}
    for group in groups:
        with_rows = folder / "rows"
        with_rows.mkdir(exist_ok=True)
        runners, failed = load(group, shop, works, with_rows, arguments.longest)
        unavailable += failed
        try:
            unavailable += take_turns(runners, wanted, arguments.repeats)
            for name, value in summaries(runners, wanted).items():
                found.setdefault(name, value)
        finally:
            for runner in runners:
                runner.worker.stop()
    for name, value in found.items():
        if started[name]:
            value["start"] = started[name]
    return {
        "date": dt.date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "repeats_of": {work: repeats_of(work, arguments.repeats) for work in wanted},
        "limits": {kind: max(limits.get(kind, 0), value) for kind, value in machine_limits(shop).items()},
        "works": {
            w: {"texts": len(works[w].ids), "tokens": sum(works[w].lengths), "gflop": works[w].flop / 1e9}
            for w in wanted
        },
        "groups": [[peer.name for peer in group] for group in groups],
        "unavailable": [asdict(each) for each in {(u.engine, u.reason): u for u in unavailable}.values()],
        "engines": found,
    }


def choose(names: str | None, shop: Workshop) -> tuple[list[Peer], list[Unavailable]]:
    """The wanted peers that can run, and always ours, with which they are compared."""
    peers = all_peers(shop)
    known = [peer.name for peer in peers]
    wanted = names.split(",") if names else known
    if unknown := set(wanted) - set(known):
        sys.exit(f"unknown engines: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    ready, unavailable = [], []
    for peer in peers:
        if peer.ours or peer.name in wanted:
            problem = prepare(peer, shop)
            if problem:
                unavailable.append(problem)
            else:
                ready.append(peer)
    return ready, unavailable


def side_by_side(peers: list[Peer], megabytes: int) -> list[list[Peer]]:
    """Groups of peers that fit into memory at the same time. Ours are in every group."""
    ours = [peer for peer in peers if peer.ours]
    room = megabytes - sum(peer.megabytes for peer in ours)
    groups: list[list[Peer]] = [[]]
    for peer in [peer for peer in peers if not peer.ours]:
        if groups[-1] and sum(e.megabytes for e in groups[-1]) + peer.megabytes > room:
            groups.append([])
        groups[-1].append(peer)
    return [[*ours, *group] for group in groups]


def spawn(peer: Peer, shop: Workshop, log: str = "run") -> Worker:
    command = [shop.python(peer.environment), "-m", f"peers.{peer.module}"]
    return Worker(
        command,
        shop.environment(peer.environment),
        BENCHMARKS,
        shop.folder / "logs" / f"{log}-{peer.name}.log",
    )


def settings(peer: Peer, shop: Workshop) -> dict[str, Any]:
    return peer.settings | {"threads": shop.threads, "tokenizer": str(shop.tokenizer)}


def start(peer: Peer, shop: Workshop, times: int) -> dict[str, float]:
    """Seconds from the start of the process to the first vector, with files in the page cache, and memory
    then and after a batch: medians."""
    taken = []
    for attempt in range(times + 1 if times else 0):
        before = time.perf_counter()
        worker = spawn(peer, shop, "start")
        try:
            worker.ask("load", settings=settings(peer, shop))
            worker.ask("run", texts=[FIRST_TEXT])
            seconds = time.perf_counter() - before
            first = worker.ask("memory")
            worker.ask("works", path=str(shop.works))
            worker.ask("run", work="1x512")
            after = worker.ask("memory")
        except WorkerFailed:
            return {}  # reported when it is loaded for its turns
        finally:
            worker.stop()
        if attempt:  # the first one warms the page cache
            values = (seconds, first["VmRSS"], first["RssAnon"], after["VmRSS"], after["VmHWM"])
            taken.append(
                dict(zip(("seconds", "rss_mb", "anon_mb", "rss_after_mb", "peak_mb"), values, strict=True))
            )
    return (
        {key: round(statistics.median(each[key] for each in taken), 3) for key in taken[0]} if taken else {}
    )


def load(
    group: list[Peer], shop: Workshop, works: dict[str, Work], rows: Path, longest: float
) -> tuple[list[Runner], list[Unavailable]]:
    runners, failed = [], []
    for peer in group:
        print(f"loading {peer.label} ...", file=sys.stderr)
        worker = spawn(peer, shop)
        runner = Runner(peer, worker, works, rows, longest)
        try:
            loaded = worker.ask("load", settings=settings(peer, shop))
            runner.facts = {"load_seconds": loaded["seconds"], "notes": loaded["notes"]} | worker.ask(
                "works", path=str(shop.works)
            )
            runners.append(runner)
        except WorkerFailed as error:
            worker.stop()
            failed.append(Unavailable(peer.name, str(error)))
    for old in rows.glob("*.npy"):
        old.unlink()
    return runners, failed


def take_turns(runners: list[Runner], wanted: list[str], repeats: int) -> list[Unavailable]:
    """Warm up, choose batchings, then measure: every repeat runs all peers, one after the other."""
    failed: list[Unavailable] = []
    for runner in list(runners):
        print(f"warming up {runner.peer.label} ...", file=sys.stderr)
        guarded(runner, runners, failed, lambda r: warm_up(r, wanted, repeats))
    idle(runners)
    for work in wanted:
        print(f"measuring {work} ...", file=sys.stderr)
        for repeat in range(repeats_of(work, repeats)):
            for runner in [each for each in runners if repeat < each.turns.get(work, 0)]:
                time.sleep(SETTLE)
                guarded(
                    runner,
                    runners,
                    failed,
                    lambda r, w=work, keep=work if repeat == 0 else "": r.turn(w, keep),
                )
    for runner in list(runners):
        guarded(runner, runners, failed, compare_alone)
    return failed


def guarded(
    runner: Runner, runners: list[Runner], failed: list[Unavailable], action: Callable[[Runner], None]
) -> None:
    """Run an action. A runner that fails is removed and reported."""
    try:
        action(runner)
    except WorkerFailed as error:
        runner.worker.stop()
        runners.remove(runner)
        failed.append(Unavailable(runner.peer.name, str(error)))


def warm_up(runner: Runner, wanted: list[str], repeats: int) -> None:
    """Run every shape, the smallest first; choose the batching of each mix; count the turns that there is
    time for."""
    runner.run("1x16")
    rate = runner.works["1x16"].flop / runner.run("1x16")
    for work in sorted(wanted, key=lambda name: runner.works[name].flop):
        expected = runner.works[work].flop / rate / 1e3
        if expected > runner.longest:
            runner.skipped[work] = f"expected to take {expected:.0f} s a turn"
            continue
        sample = "lognormal-probe" if work == "lognormal" else work
        taken = choose_batching(runner, work, sample) if work in MIXES else runner.run(work)
        rate = max(rate, runner.works[sample].flop / taken)
        expected = runner.works[work].flop / rate / 1e3
        runner.turns[work] = max(1, min(repeats_of(work, repeats), int(runner.longest / expected)))


def choose_batching(runner: Runner, work: str, sample: str) -> float:
    """Milliseconds of the fastest way to batch a mix. gte-runtime plans itself."""
    if runner.peer.ours:
        runner.batching[work] = "its own plan"
        return runner.run(sample)
    tried = {way: runner.run(sample, way) for way in batchings(runner.works[sample].lengths)}
    runner.batching[work] = min(tried, key=lambda way: tried[way])
    runner.facts.setdefault("batchings_tried_ms", {})[work] = {
        way: round(value, 1) for way, value in tried.items()
    }
    return min(tried.values())


def idle(runners: list[Runner]) -> None:
    """Processor time that waiting workers use, in percent of one core: the others lack it in their turns."""
    time.sleep(1)
    before = [runner.worker.cpu_seconds() for runner in runners]
    time.sleep(2)
    for runner, start_seconds in zip(runners, before, strict=True):
        runner.facts["idle_percent"] = round(50 * (runner.worker.cpu_seconds() - start_seconds), 1)


def compare_alone(runner: Runner) -> None:
    """Compare the short texts in one batch with the same texts one by one, bit for bit."""
    if (
        "short" in runner.skipped
        or runner.works["short"].flop / runner.works["1x16"].flop * runner.run("1x16") / 1e3 > runner.longest
    ):
        return
    runner.run("short", "all in one", keep="together")
    runner.run("short", "one by one", keep="alone")
    together, alone = runner.kept("together"), runner.kept("alone")
    assert together is not None
    assert alone is not None
    runner.facts["batch"] = {
        "bitwise": bool(np.array_equal(together, alone)),
        "largest": float(np.abs(together - alone).max()),
    }


def summaries(runners: list[Runner], wanted: list[str]) -> dict[str, Any]:
    """Medians of every remaining peer, the medians it is compared with, and its cosine to our fp32."""
    ours = {runner.peer.name: runner for runner in runners if runner.peer.ours}
    base = {
        name: {work: statistics.median(times) for work, times in runner.times.items()}
        for name, runner in ours.items()
    }
    exact = ours.get("gte-fp32")
    return {runner.peer.name: summary(runner, wanted, base, exact) for runner in runners}


def summary(
    runner: Runner, wanted: list[str], base: dict[str, dict[str, float]], exact: Runner | None
) -> dict[str, Any]:
    cosine = {}
    for work in wanted:
        rows, expected = runner.kept(work), exact.kept(work) if exact else None
        if rows is not None and expected is not None:
            products = np.einsum("ij,ij->i", rows.astype(np.float64), expected.astype(np.float64))
            cosine[work] = {"mean": float(products.mean()), "min": float(products.min())}
    times = {
        work: {
            "median": round(statistics.median(t), 2),
            "min": round(min(t), 2),
            "turns": len(t),
            "all": [round(v, 2) for v in t],
        }
        for work, t in runner.times.items()
    }
    return {
        "name": runner.peer.name,
        "label": runner.peer.label + fallen_back(runner),
        "precision": runner.peer.precision,
        "milliseconds": times,
        "reference_ms": base,
        "batching": runner.batching,
        "skipped": runner.skipped,
        "cosine": cosine,
        **runner.facts,
    }


def fallen_back(runner: Runner) -> str:
    """Says so when OpenVINO, asked for bf16, runs in float32 because the processor has none."""
    hint = "INFERENCE_PRECISION_HINT"
    asked, got = runner.peer.settings.get("hints", {}).get(hint), runner.facts["notes"].get(hint, "")
    return " (no bf16 here: f32)" if asked == "bf16" and "32" in got else ""


def repeats_of(work: str, repeats: int) -> int:
    return max(1, round(REPEATS[work] * repeats))


def machine_limits(shop: Workshop) -> dict[str, float]:
    """GFLOP/s of plain matrix products, the better of PyTorch and ONNX Runtime; empty where neither runs."""
    found: dict[str, float] = {}
    for name in ("torch", "onnxruntime"):
        try:
            command = [shop.python(name), "-m", "peers.limits", name, str(shop.threads)]
            done = subprocess.run(
                command,
                cwd=BENCHMARKS,
                env=shop.environment(name),
                capture_output=True,
                text=True,
                check=True,
            )
        except (StepFailed, subprocess.CalledProcessError) as error:
            print(f"no limits from {name}: {str(error)[:200]}", file=sys.stderr)
            continue
        for kind, value in json.loads(done.stdout).items():
            found[kind] = max(found.get(kind, 0.0), value)
    # Without a kernel for bf16 an engine that is asked for it may run in float32.
    return found | {"bf16": max(found["bf16"], found["fp32"])} if "bf16" in found else found


def machine() -> dict[str, Any]:
    lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = fields.get("flags", fields.get("Features", "")).split()
    telling = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return {
        "cpu": fields.get("model name", platform.machine()),
        "family": f"{fields.get('cpu family', '?')}.{fields.get('model', '?')}",
        "features": " ".join(flag for flag in telling if flag in flags) or platform.machine(),
        "processors": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.release(),
        "python": platform.python_version(),
    }


def free_memory() -> float:
    """MB that processes may still take."""
    found = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")
    )
    return int(found.split()[1]) / 1e3


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "?"


def plot(shop: Workshop, results: Path, picture: Path) -> None:
    try:
        command = [shop.python("plot"), "-m", "peers.plot", str(results.resolve()), str(picture.resolve())]
        subprocess.run(command, cwd=BENCHMARKS, env=shop.environment("plot"), check=True)
    except (StepFailed, subprocess.CalledProcessError) as error:
        print(f"no plot: {str(error)[:200]}", file=sys.stderr)


if __name__ == "__main__":
    main()
