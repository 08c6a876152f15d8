"""`gte pull`: downloads a checkpoint, builds a bundle and verifies it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal import tell

if TYPE_CHECKING:
    from ..format.manifest import Manifest
    from ..tokenization import Form


@click.command()
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to write the bundle. Default: where --model NAME finds it.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    help="What to build; may be given several times. Default: cpu-fp32.",
)
@click.option(
    "--graphs", type=click.Path(path_type=Path), help="A directory of traced graphs. Default: those shipped."
)
@click.option(
    "--ignore-unused", is_flag=True, help="Accept tensors and config keys that the architecture does not use."
)
@click.option("--nfc", is_flag=True, help="The bundle composes texts (Unicode NFC) unless told otherwise.")
@click.option("--overwrite", is_flag=True, help="Build again what is there already.")
def command(
    name: str,
    output: Path | None,
    variants: tuple[str, ...],
    graphs: Path | None,
    ignore_unused: bool,
    nfc: bool,
    overwrite: bool,
) -> None:
    """Download a checkpoint from the hub, build a bundle from it and verify the bundle.

    NAME is a model's short name, OWNER/NAME or OWNER/NAME@REVISION. An interrupted download continues where
    it stopped; after a kill, only with huggingface_hub below 1. HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and
    HF_ENDPOINT work as in huggingface_hub. The bundle's path goes to stdout.
    """
    # Xet, the hub's other protocol, starts again after a kill; plain HTTP continues where it stopped.
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

    from ..building.build import DEFAULT_VARIANTS, build
    from ..catalog.hub import download, wanted
    from ..catalog.locate import pulled_directory
    from ..format.manifest import FORMAT
    from ..format.models import models_directory
    from ..format.named import named_models
    from ..machine.cache import cache_directory, make_directory
    from .verify import check_itself, check_published

    if os.path.expanduser("~") == "~":  # noqa: PTH111 - no home directory: the library would use one named "~"
        os.environ.setdefault("HF_HOME", str(cache_directory() / "huggingface"))
    known = named_models(models_directory())
    want = wanted(name, known)
    chosen = tuple(dict.fromkeys(variants or DEFAULT_VARIANTS))
    target = output or pulled_directory(name, known)
    assert target is not None  # `wanted` accepts only names that have a directory
    say(f"{want.hub} at {want.revision}")
    found = download(want)
    origin = f"{want.hub}@{found.commit}"
    existing = _existing(target, origin)
    there = tuple(existing.variants) if existing else ()
    outdated = existing is not None and existing.format < FORMAT and output is None
    unicode: Form = "NFC" if nfc or (existing and existing.unicode == "NFC") else "exact"
    outdated = outdated or (existing is not None and existing.unicode != unicode)
    if overwrite or outdated or not set(chosen) <= set(there):
        chosen = tuple(dict.fromkeys((*there, *chosen)))
        say(f"building {', '.join(chosen)} of {origin}")
        if output is None:
            make_directory(target.parent)
        build(
            found.directory,
            target,
            graphs=graphs,
            variants=chosen,
            ignore_unused=ignore_unused,
            overwrite=overwrite or output is None,
            origin=origin,
            name=want.named.name if want.named else want.hub.rpartition("/")[2],
            prompts=want.named.prompts if want.named else None,
            unicode=unicode,
            tell=say,
        )
        say("built; every variant agrees with the oracle")
    else:
        say(f"{origin} was built before")
        check_itself(target, say)
    check_published(target, say)
    click.echo(target)


def say(line: str) -> None:
    tell(line)


def _existing(target: Path, origin: str) -> Manifest | None:
    """The manifest of the bundle that exists. None if it is of another commit, since then it is replaced."""
    from ..bundle.directory import Bundle
    from ..errors import BundleError

    try:
        manifest = Bundle.open(target).manifest
    except BundleError:
        return None
    return manifest if manifest.origin == origin else None
