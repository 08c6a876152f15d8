"""Measures the retrieval tasks of the mGTE paper and puts the paper's numbers next to ours.

    make .venv-mteb/.mteb && .venv-mteb/bin/gte pull gte-multilingual-base
    .venv-mteb/bin/python benchmarks/quality/paper.py --task MultiLongDocRetrieval --way hybrid -o paper.md

It needs a machine that can load the data, which come from the hub through mteb; MIRACL and MLDR are tens of
gigabytes, and a full run on a CPU takes days. mteb keeps results (MTEB_CACHE), so an interrupted run can be
continued. The paper's numbers are those of its tables 4 and 5 (arXiv 2407.19669), as transcribed in the notes
of this project: check the PDF before quoting them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb

from gte_runtime.integrations.mteb import GteEncoder, GteSearch

WAYS: dict[str, Callable[[str], Any]] = {
    "dense": lambda model: GteEncoder(model),
    "sparse": lambda model: GteSearch(model, dense_weight=0.0, sparse_weight=1.0),
    "hybrid": lambda model: GteSearch(model, dense_weight=1.0, sparse_weight=0.01),
}
PAPER = {
    ("MultiLongDocRetrieval", "dense"): 56.6,
    ("MultiLongDocRetrieval", "sparse"): 71.0,
    ("MultiLongDocRetrieval", "hybrid"): 71.3,
    ("MIRACLRetrieval", "dense"): 62.1,
    ("MIRACLRetrieval", "sparse"): 55.9,
    ("MIRACLRetrieval", "hybrid"): 64.5,
    ("MKQARetrieval", "dense"): 65.8,
    ("MKQARetrieval", "sparse"): 31.6,
    ("MKQARetrieval", "hybrid"): 66.0,
    ("BEIR", "dense"): 51.1,
    ("BEIR", "sparse"): 39.2,
    ("BEIR", "hybrid"): 51.4,
    # Not from the paper: results that its authors published with mteb.
    ("STS12", "dense"): 77.5075,
    ("SCIDOCS", "dense"): 18.257,
}
"""nDCG@10 x 100; recall@20 x 100 of MKQA, Spearman's correlation x 100 of STS12."""

MEASURES = {"MKQARetrieval": "recall_at_20", "STS12": "cosine_spearman"}


def tasks(name: str) -> list[Any]:
    return list(mteb.get_benchmark("BEIR").tasks) if name == "BEIR" else list(mteb.get_tasks(tasks=[name]))


def measure(name: str, way: str, model: str) -> float:
    """Mean over languages, and over tasks of a collection, x 100."""
    result = mteb.evaluate(WAYS[way](model), tasks(name))
    measured = [
        sum(scores[MEASURES.get(name, "ndcg_at_10")] for scores in split) / len(split)
        for task in result.task_results
        for split in task.scores.values()
    ]
    return 100 * sum(measured) / len(measured)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gte-multilingual-base")
    parser.add_argument(
        "--task", action="append", choices=sorted({task for task, _ in PAPER}), help="Default: all of them."
    )
    parser.add_argument("--way", action="append", choices=list(WAYS), help="Default: all three.")
    parser.add_argument("-o", "--output", type=Path, help="A Markdown file; by default the table is printed.")
    options = parser.parse_args()
    lines = ["| task | way | paper | here |", "|---|---|---:|---:|"]
    for (task, way), paper in PAPER.items():
        if task in (options.task or [task]) and way in (options.way or list(WAYS)):
            lines.append(f"| {task} | {way} | {paper:.1f} | {measure(task, way, options.model):.1f} |")
            print(lines[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
