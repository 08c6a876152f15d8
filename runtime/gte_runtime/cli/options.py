"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

Decorator = Callable[[Any], Any]


def model_options(function: Any, default: str = "gte-mini") -> Any:
    """--model, --variant, --provider, --threads."""
    for option in (
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            help="Threads of one run. Default: all this process may use.",
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


def gpu_options(function: Any) -> Any:
    """--device, --gpu-mem-limit."""
    for option in (
        click.option(
            "--gpu-mem-limit",
            type=click.IntRange(min=1),
            help="Bytes that each GPU may give, weights included.",
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
    default=8192,
    show_default=True,
    help="Tokens per text, special tokens included.",
)
