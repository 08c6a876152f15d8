"""Results as tables. Pure: takes what the driver writes as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Results = dict[str, Any]
LIMIT_OF = {"fp32": "fp32", "bf16": "bf16", "int8": "int8"}


def markdown(results: Results) -> str:
    """The whole report."""
    machine = results["machine"]
    lines = [
        f"# CPU, side by side, {results['date']}",
        "",
        f"{machine['cpu']} ({machine['features']}), {results['threads']} threads, {machine['memory_gb']} GB, "
        f"Python {machine['python']}, commit {results['commit']}. "
        "Full architecture, random weights, real multilingual text. "
        f"Medians of interleaved repeats (--repeats {results['repeats']}; per work: "
        + ", ".join(f"{name} {count}" for name, count in results["repeats_of"].items())
        + ").",
        "",
        "Limits measured in this run, GFLOP/s: "
        + ", ".join(f"{kind} {value:.0f}" for kind, value in results["limits"].items())
        + ". "
        "Fixed shapes start from ids, mixes from texts, tokenizing included; "
        "fastembed takes texts everywhere.",
    ]
    for engine in results["unavailable"]:
        lines.append(f"\n**{engine['engine']} did not run**: {engine['reason']}")
    lines += ["", "## Milliseconds", *_by_work(results, lambda engine, work: f"{_ms(engine, work):,.1f}")]
    for reference in ("gte-fp32", "gte-int8"):
        if any(reference in group for group in results["groups"]):
            lines += ["", f"## Time as a multiple of {reference}'s (above 1: {reference} is faster)"]
            lines += _by_work(results, lambda engine, work, r=reference: _ratio(results, engine, work, r))
    lines += ["", "## Tokens per second, padding not counted"]
    lines += _by_work(
        results, lambda engine, work: f"{results['works'][work]['tokens'] / _ms(engine, work) * 1e3:,.0f}"
    )
    lines += ["", "## Share of the machine's limit for the engine's precision, percent"]
    lines += _by_work(results, lambda engine, work: _share(results, engine, work))
    lines += ["", "## Batching of the mixes: the best that was found for each", *_batchings(results)]
    lines += ["", "## Accuracy, dependence on the batch, start, memory", *_others(results)]
    skipped = [
        f"- {name}, {work}: {why}"
        for name, e in results["engines"].items()
        for work, why in e.get("skipped", {}).items()
    ]
    if skipped:
        lines += ["", "## Not measured", *skipped]
    return "\n".join(lines) + "\n"


def _ms(engine: Results, work: str) -> float:
    return float(engine["milliseconds"][work]["median"])


def _by_work(results: Results, cell: Callable[[Results, str], str]) -> list[str]:
    works = list(results["works"])
    rows = [
        [engine["label"], *(cell(engine, work) if work in engine["milliseconds"] else "-" for work in works)]
        for engine in results["engines"].values()
    ]
    return _table(["engine", *works], rows)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|---" + "|---:" * (len(head) - 1) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _ratio(results: Results, engine: Results, work: str, reference: str) -> str:
    """Against the reference of the engine's own group: they took turns."""
    ours = engine["reference_ms"].get(reference, {}).get(work)
    return f"{_ms(engine, work) / ours:.2f}" if ours else "-"


def _share(results: Results, engine: Results, work: str) -> str:
    limit = results["limits"].get(LIMIT_OF[engine["precision"]], 0)
    return (
        f"{100 * results['works'][work]['gflop'] / (_ms(engine, work) / 1e3) / limit:.0f}" if limit else "-"
    )


def _batchings(results: Results) -> list[str]:
    mixes = [
        work
        for work in results["works"]
        if any(work in engine["batching"] for engine in results["engines"].values())
    ]
    return _table(
        ["engine", *mixes],
        [[e["label"], *(e["batching"].get(w, "-") for w in mixes)] for e in results["engines"].values()],
    )


def _others(results: Results) -> list[str]:
    head = [
        "engine", "cosine mean", "cosine min", "at", "alone = in a batch", "largest difference",
        "start to first vector, s", "RSS then, MB", "of it not mapped files", "RSS after 1x512", "idle CPU %",
    ]  # fmt: skip
    return _table(head, [[engine["label"], *_cells(engine)] for engine in results["engines"].values()])


def _cells(engine: Results) -> list[str]:
    cosine, batch, start = engine.get("cosine", {}), engine.get("batch", {}), engine.get("start", {})
    worst = min(cosine, key=lambda work: cosine[work]["min"], default=None)
    mean = sum(value["mean"] for value in cosine.values()) / len(cosine) if cosine else 0
    return [
        f"{mean:.6f}" if cosine else "-",
        f"{cosine[worst]['min']:.6f}" if worst else "-",
        worst or "-",
        {True: "bit for bit", False: "no"}[batch["bitwise"]] if batch else "-",
        f"{batch['largest']:.1e}" if batch else "-",
        f"{start['seconds']:.2f}" if start else "-",
        f"{start['rss_mb']:.0f}" if start else "-",
        f"{start['anon_mb']:.0f}" if start else "-",
        f"{start['rss_after_mb']:.0f}" if start else "-",
        f"{engine['idle_percent']:.0f}" if "idle_percent" in engine else "-",
    ]
