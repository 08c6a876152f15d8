"""Draws results, one panel for each work, one bar for each peer: python -m peers.plot RESULTS.json
PICTURE.png."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TITLES = {
    "short": "64 short texts",
    "queries": "8 queries + 4 documents",
    "lognormal": "200 texts, lognormal",
}
OURS, OTHERS = (
    {"fp32": "#1f5fa8", "int8": "#d1495b"},
    {"fp32": "#a9c3de", "bf16": "#bcd5b5", "int8": "#eab8be"},
)


def main() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch
    from PIL import Image

    results = json.loads(Path(sys.argv[1]).read_text())
    engines = list(results["engines"].values())
    works = [work for work in results["works"] if any(work in engine["milliseconds"] for engine in engines)]
    columns = 2
    rows = -(-len(works) // columns)
    plt.rcParams |= {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    height = 1.1 + rows * (0.7 + 0.2 * len(engines))
    figure, axes = plt.subplots(rows, columns, figsize=(11, height), squeeze=False, facecolor="white")
    for panel, work in zip(axes.flat, works, strict=False):
        _panel(panel, work, engines, results["works"][work]["tokens"])
    for panel in axes.flat[len(works) :]:
        panel.axis("off")
    kinds = [Patch(color=OURS[k], label=f"gte-runtime {k}") for k in OURS] + [
        Patch(color=OTHERS[k], label=f"others, {k}") for k in OTHERS
    ]
    figure.legend(handles=kinds, loc="lower center", ncols=5, frameon=False)
    cpu = results["machine"]
    figure.suptitle(
        f"Milliseconds, less is better. {cpu['cpu']} ({cpu['features']}), {results['threads']} threads, "
        f"{results['date']}"
    )
    figure.tight_layout(rect=(0.01, 0.45 / height, 0.99, 1 - 0.1 / height))
    figure.savefig(sys.argv[2], dpi=95)
    # A few colours need no true-colour file: a third of the size, and it is kept in git.
    with Image.open(sys.argv[2]) as picture:
        picture.convert("RGB").quantize(48).save(sys.argv[2], optimize=True)


def _panel(panel: Any, work: str, engines: list[dict[str, Any]], tokens: int) -> None:
    times = [engine["milliseconds"].get(work, {}).get("median") for engine in engines]
    known = sorted(value for value in times if value)
    # One engine without a kernel for its precision must not flatten all the others.
    edge = min(known[-1], 4 * known[len(known) // 2]) * 1.18
    colours = [
        (OURS if engine["name"].startswith("gte-") else OTHERS)[engine["precision"]] for engine in engines
    ]
    panel.barh(range(len(engines)), [min(value or 0, edge) for value in times], color=colours)
    for row, value in enumerate(times):
        text = "not measured" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        beyond = value is not None and value >= edge
        panel.text(
            edge * 0.99 if beyond else (value or 0) + edge * 0.008,
            row,
            text,
            va="center",
            ha="right" if beyond else "left",
        )
    panel.set_yticks(range(len(engines)), [engine["label"] for engine in engines])
    panel.invert_yaxis()
    panel.set_xlim(0, edge)
    panel.set_title(f"{TITLES.get(work, work + ' tokens')} ({tokens:,} tokens)", fontsize=9, loc="left")


if __name__ == "__main__":
    main()
