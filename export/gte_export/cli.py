"""The command line `gte-export`."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import click

from gte_runtime.errors import GteError

from .random_checkpoint import Form, write_random_checkpoint


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def gte_export() -> None:
    """Trace the PyTorch encoder into graphs without weights."""


@gte_export.command("trace")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Where to write; the directory's name names the architecture.",
)
def trace_command(source: Path, output: Path) -> None:
    """Write graphs, layouts and recipe of the architecture of a config.json, checkpoint or recipe.toml.

    Every graph is compared with PyTorch on random weights. Where SOURCE holds weights, each variant
    is also built and compared with PyTorch on those.
    """
    from .trace import trace
    from .verify import verify

    recipe = trace(source, output)
    print(
        f"gte-export: {output.name}: {len(recipe.graphs)} graphs, {', '.join(recipe.variants)}",
        file=sys.stderr,
    )
    if source.is_dir() and (source / "model.safetensors").exists():
        for variant, difference in verify(source, output).items():
            print(
                f"gte-export: {variant}: largest difference to PyTorch {difference:.1e} of the largest value",
                file=sys.stderr,
            )


@gte_export.command("random")
@click.argument("config", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, path_type=Path),
    help="A tokenizer.json to copy beside the weights.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--dtype", type=click.Choice(["F16", "F32", "BF16"]), default="F16", show_default=True)
def random_command(config: Path, output: Path, tokenizer: Path | None, seed: int, dtype: str) -> None:
    """Write a checkpoint of random weights for a CONFIG, in upstream's layout."""
    raw = json.loads((config / "config.json" if config.is_dir() else config).read_text(encoding="utf-8"))
    write_random_checkpoint(output, raw, Form(dtype=dtype), seed=seed, tokenizer=tokenizer)


def main() -> None:
    """Entry point. Errors of both packages become one line on stderr and an exit code."""
    logging.getLogger("optimum").setLevel(logging.ERROR)
    try:
        gte_export(standalone_mode=True)
    except (GteError, ValueError) as error:
        print(f"gte-export: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
