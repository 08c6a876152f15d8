"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

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


max_length_option = click.option(
    "--max-length",
    type=int,
    help="Tokens per text, special tokens included. Default: the checkpoint's own limit, at most 8192.",
)
