"""`gte build`: builds a bundle from a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import click

from .terminal import tell

NAME = re.compile(r"[\w][\w./:+-]{0,199}")
"""What servers and their clients can name in a request and in an address."""


def named(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A name that a model can be served under."""
    if value is not None and not NAME.fullmatch(value):
        raise click.BadParameter(
            f"{value[:80]!r} is no name of a model: use letters, digits and . _ - / : +, at most 200"
        )
    return value


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
@click.option(
    "--name",
    callback=named,
    help="The model's name, by which it is served. Default: the checkpoint's folder or repository.",
)
@click.option(
    "--ignore-unused", is_flag=True, help="Accept tensors and settings that are not known to change results."
)
@click.option("--nfc", is_flag=True, help="The bundle composes texts (Unicode NFC) unless told otherwise.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
def command(
    checkpoint: Path,
    bundle: Path,
    graphs: Path | None,
    variants: tuple[str, ...],
    name: str | None,
    ignore_unused: bool,
    nfc: bool,
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
        unicode="NFC" if nfc else "exact",
        name=name,
        tell=tell,
    )
    size = sum(record.size for record in manifest.files.values()) / 1e6
    kind = "dense and, expanded over the vocabulary, sparse" if manifest.expansion else "dense and sparse"
    vectors = kind if manifest.sparse else "dense only (the checkpoint has no sparse head)"
    pooling = f"pooling {', '.join(manifest.pooling)}" + ("" if manifest.normalize else ", not normalised")
    head = "a reranker" if manifest.reranker else f"{vectors}; {pooling}"
    built = ", ".join(manifest.variants)
    tell(f"{bundle.name}: {built}; {head}; {size:.0f} MB; agrees with the oracle")


def _no_checkpoint(path: Path) -> str | None:
    """What the path is if it obviously is no checkpoint."""
    from ..format.manifest import FILE

    if path.is_file():
        return None  # `build` names its kind
    if not path.is_dir():
        return "no directory" if path.exists() else "not there"
    return "a bundle already" if (path / FILE).exists() else None
