"""`gte build`: builds a bundle from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from .terminal import tell


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--graphs",
    type=click.Path(path_type=Path),
    help="A directory of traced graphs. Default: found by architecture among those shipped.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    help="What to build; may be given several times. Default: cpu-fp32.",
)
@click.option("--name", help="The model's name in the bundle. Default: that of the checkpoint's directory.")
@click.option("--ignore-unused", is_flag=True, help="Accept tensors that the architecture does not use.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
def command(
    checkpoint: Path,
    bundle: Path,
    graphs: Path | None,
    variants: tuple[str, ...],
    name: str | None,
    ignore_unused: bool,
    overwrite: bool,
) -> None:
    """Turn a CHECKPOINT directory into a BUNDLE directory.

    The checkpoint is what the hub ships: config.json, model.safetensors, tokenizer.json. Every
    variant is compared with a plain numpy forward pass before the bundle appears.
    """
    from ..building.build import DEFAULT_VARIANTS, build

    if what := _no_checkpoint(checkpoint):
        from ..errors import CheckpointError

        raise CheckpointError(
            f"{checkpoint.name} is {what}; a checkpoint is a directory of config.json, model.safetensors "
            "and tokenizer.json"
        )
    manifest = build(
        checkpoint,
        bundle,
        graphs=graphs,
        variants=variants or DEFAULT_VARIANTS,
        ignore_unused=ignore_unused,
        overwrite=overwrite,
        name=name,
    )
    size = sum(record.size for record in manifest.files.values()) / 1e6
    vectors = "dense and sparse" if manifest.sparse else "dense only (the checkpoint has no sparse head)"
    head = "a reranker" if manifest.reranker else vectors
    built = ", ".join(manifest.variants)
    tell(f"{bundle.name}: {built}; {head}; {size:.0f} MB; agrees with the oracle")


def _no_checkpoint(path: Path) -> str | None:
    """What the path is if it obviously is no checkpoint."""
    from ..format.manifest import FILE

    if not path.is_dir():
        return "a file" if path.exists() else "not there"
    return "a bundle already" if (path / FILE).exists() else None
