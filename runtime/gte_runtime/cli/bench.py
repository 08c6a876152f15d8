"""`gte bench`: measures how fast a bundle is on this machine. The table goes to stderr, JSON to stdout."""

from __future__ import annotations

import itertools
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from . import reading
from .options import form_of, gpu_options, model_options, unicode_option
from .terminal import escaped, show_json

if TYPE_CHECKING:
    from ..bench.latency import Options
    from ..embedder import Embedder

MOST_TEXTS = 10_000
"""Texts of a file that are used; the others are ignored."""

COLUMNS = ("tokens", "batch", "n", "stage", "p50", "p95", "p99", "mean", "tokens/s")
WIDTHS = (6, 5, 6, 8, 9, 9, 9, 9, 10)
TIMES = ("p50", "p95", "p99", "mean")


@click.group()
def command() -> None:
    """How fast a bundle is on this machine."""


@command.command()
@click.option(
    "--tokens",
    type=int,
    multiple=True,
    help="Tokens of every text; may be given several times. Default: 16, 128, 512.",
)
@click.option(
    "--batch",
    "batches",
    type=int,
    multiple=True,
    default=(1, 8),
    show_default=True,
    help="Texts of one call; may be given several times.",
)
@click.option("--seconds", type=float, help="Time for each cell, at least 5 calls. Default: 5.")
@click.option("--repeats", type=int, help="Calls of each cell instead.")
@click.option(
    "--warmup", type=int, default=3, show_default=True, help="Calls of each cell before any counts."
)
@click.option(
    "-i",
    "--input",
    "source",
    help="Measure these texts (the first 10,000): one per line, JSONL, JSON, CSV or TSV; - is stdin.",
)
@click.option(
    "--text-field",
    default="text",
    show_default=True,
    help="The field of a JSON object, or the column, that holds the text.",
)
@click.option("--cuda-graphs", is_flag=True, help="Latency mode: capture CUDA graphs for small requests.")
@unicode_option
@model_options
@gpu_options
def latency(
    tokens: tuple[int, ...],
    batches: tuple[int, ...],
    seconds: float | None,
    repeats: int | None,
    warmup: int,
    source: str | None,
    text_field: str,
    nfc: bool | None,
    model: str,
    variant: str | None,
    provider: str,
    threads: int | None,
    cuda_graphs: bool,
    devices: tuple[int, ...],
    gpu_mem_limit: int | None,
) -> None:
    """Milliseconds per call, by length and batch.

    One caller makes one call after another. Texts are made of real words in 20 languages and have exactly the
    wanted number of tokens. p99 needs 100 calls.
    """
    if seconds is not None and repeats is not None:
        raise click.UsageError("give --seconds or --repeats, not both")
    if tokens and source is not None:
        raise click.UsageError("give --tokens or --input, not both")

    from ..bench import latency as bench
    from ..embedder import Embedder

    options = bench.Options(
        tokens=tokens or None,
        batches=batches,
        seconds=5.0 if seconds is None else seconds,
        repeats=repeats,
        warmup=warmup,
    )
    texts = None if source is None else _texts(source, text_field)
    with Embedder.open(
        model,
        variant=variant,
        provider=provider,
        threads=threads,
        latency=cuda_graphs,
        devices=devices,
        gpu_mem_limit=gpu_mem_limit,
        unicode=form_of(nfc),
    ) as gte:
        if captured := gte.info.get("cuda_graphs"):
            shapes = ", ".join(str(shape["tokens"]) for shape in captured["shapes"])
            _say(f"gte: CUDA graphs for {shapes} tokens, captured in {captured['milliseconds']} ms")
        works = bench.works(gte, options, texts)
        _say(_title(gte.info))
        _say(_line(COLUMNS))
        cells = []
        for work in works:
            cells.append(bench.record(bench.measure(gte, work, options)))
            for line in _lines(cells[-1]):
                _say(line)
        if cut := sum(cell["truncated"] for cell in cells):
            _say(f"gte: note: texts of more than {gte.max_length} tokens were cut, {cut} times")
        show_json(_report(gte, options, texts, cells), indent=1)


def _report(
    gte: Embedder, options: Options, texts: list[str] | None, cells: list[dict[str, Any]]
) -> dict[str, Any]:
    from ..bench import machine

    return {
        "bench": "latency",
        "load": "closed loop, one caller",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **{name: gte.info[name] for name in ("model", "bundle", "variant", "provider")},
        "hardware": machine.hardware() | {"threads": gte.info["threads"]},
        **{name: gte.info[name] for name in ("devices", "cuda_graphs") if name in gte.info},
        "versions": machine.versions(),
        "options": {
            "tokens": list(dict.fromkeys(cell["tokens"] for cell in cells)) if texts is None else None,
            "batch": list(dict.fromkeys(options.batches)),
            "seconds": options.seconds if options.repeats is None else None,
            "repeats": options.repeats,
            "warmup": options.warmup,
            "input_texts": None if texts is None else len(texts),
            "sparse": gte.manifest.sparse,
        },
        "cells": cells,
    }


def _texts(source: str, text_field: str) -> list[str]:
    """The texts of a file. A text that cannot be embedded is an error: leaving it out would change what is
    measured."""
    from ..errors import InputError, InputFileError
    from ..tokenization import check_text

    rows = reading.from_input((source,), text_field, None, None)
    texts = []
    for index, row in enumerate(itertools.islice(rows, MOST_TEXTS)):
        try:
            texts.append(check_text(row.text, index))
        except InputError as error:
            raise InputFileError(f"{rows.place(index)}: {rows.problem(index) or error.reason}") from None
    if not texts:
        raise InputFileError("there are no texts in the input")
    return texts


def _title(info: dict[str, Any]) -> str:
    threads = "1 thread" if info["threads"] == 1 else f"{info['threads']} threads"
    what = f"{info['model']} ({info['bundle']}), {info['variant']}, {info['provider']}, {threads}"
    return f"{what}; one caller; milliseconds per call"


def _lines(cell: dict[str, Any]) -> list[str]:
    """A cell as lines of the table: first the total, then each stage."""
    head = ("any" if cell["tokens"] is None else str(cell["tokens"]), str(cell["batch"]), str(cell["n"]))
    rate = f"{cell['tokens_per_second']:,.0f}"
    return [
        _line(
            (
                *(head if stage == "total" else ("", "", "")),
                stage,
                *map(_time, map(times.get, TIMES)),
                rate if stage == "total" else "",
            )
        )
        for stage, times in cell["ms"].items()
    ]


def _line(values: tuple[str, ...]) -> str:
    cells = [
        value.ljust(width) if name == "stage" else value.rjust(width)
        for name, value, width in zip(COLUMNS, values, WIDTHS, strict=True)
    ]
    return "  ".join(cells).rstrip()


def _time(milliseconds: float | None) -> str:
    return (
        "-"
        if milliseconds is None
        else f"{milliseconds:,.3f}"
        if milliseconds < 100
        else f"{milliseconds:,.1f}"
    )


def _say(line: str) -> None:
    print(escaped(line), file=sys.stderr, flush=True)
