"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..tokenization import Form

Function = Callable[..., Any]


def model_options(function: Function, default: str = "gte-mini") -> Function:
    """--model, --variant, --provider, --threads."""
    for option in (
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            help="Processors to use. Default: all that this process may use.",
        ),
        click.option(
            "--provider",
            type=click.Choice(["cpu", "cuda", "tensorrt"]),
            default="cpu",
            show_default=True,
            help="Where to run. There is no fallback.",
        ),
        click.option("--variant", help="A variant of the bundle. Default: the best for the provider."),
        click.option(
            "--model",
            default=default,
            show_default=True,
            help="A bundle directory, or the name of a shipped or pulled model.",
        ),
    ):
        function = option(function)
    return function


reranker_options = partial(model_options, default="gte-multilingual-reranker-base")


def gpu_options(function: Function) -> Function:
    """--device, --gpu-mem-limit."""
    for option in (
        click.option(
            "--gpu-mem-limit",
            type=click.IntRange(min=1),
            help="The most memory to use on each GPU, in bytes, weights included.",
        ),
        click.option(
            "--device",
            "devices",
            type=click.IntRange(min=0),
            multiple=True,
            default=(0,),
            help="GPUs to use. Default: 0.",
        ),
    ):
        function = option(function)
    return function


unicode_option = click.option(
    "--nfc/--no-nfc",
    "nfc",
    default=None,
    help="Compose texts (Unicode NFC) first, or take them as they are. Default: as the bundle says.",
)


def form_of(nfc: bool | None) -> Form | None:
    """The argument `unicode` that the option means."""
    return None if nfc is None else "NFC" if nfc else "exact"


max_length_option = click.option(
    "--max-length",
    type=int,
    help="Tokens per text, special tokens included. Default: the checkpoint's own limit, at most 8192.",
)


def input_option(function: Function) -> Function:
    """--input, which may be given several times; without it stdin is read."""
    return click.option(
        "-i",
        "--input",
        "sources",
        multiple=True,
        help="A file, or a pattern such as 'data/*.jsonl.gz'; - is stdin. May be given several times. Lines "
        "of text, JSONL, JSON, CSV, TSV, Parquet and Arrow are recognised.",
    )(function)


def input_options(function: Function) -> Function:
    """--text-field, --id-field, --input-format."""
    for option in (
        click.option(
            "--input-format",
            "input_form",
            type=click.Choice(["lines", "jsonl", "json", "csv", "tsv", "parquet", "arrow"]),
            help="The form of the input. Default: by its content, then by its name.",
        ),
        click.option("--id-field", help="The field or column of the id. Default: id, where there is one."),
        click.option(
            "--text-field", default="text", show_default=True, help="The field or column of the text."
        ),
    ):
        function = option(function)
    return function
