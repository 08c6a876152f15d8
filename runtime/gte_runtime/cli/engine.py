"""`gte engine build`: builds TensorRT engines in advance."""

from __future__ import annotations

from pathlib import Path

import click

from .terminal import tell


@click.group()
def command() -> None:
    """TensorRT engines. They are built in advance: opening a model builds none."""


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--variant", default="portable-fp16", show_default=True)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    help="Texts x tokens of an engine, at most. Default: 32x32, 32x128, 16x512.",
)
@click.option(
    "--device",
    "devices",
    type=int,
    multiple=True,
    default=(0,),
    show_default=True,
    help="GPUs to build for.",
)
def build(bundle: Path, variant: str, profiles: tuple[str, ...], devices: tuple[int, ...]) -> None:
    """Build the TensorRT engines of BUNDLE for this machine. Those that exist are kept.

    They are stored in the cache (GTE_CACHE). One is used only with the bundle, ONNX Runtime, TensorRT, driver
    and GPU it was built for: when one of those changes, build again.
    """
    from ..bundle.directory import Bundle
    from ..bundle.load import engine_source
    from ..device.tensorrt import PROFILES, Profile, build_engines

    chosen = [Profile.parse(text) for text in profiles] or list(PROFILES)
    opened = Bundle.open(bundle)
    source = engine_source(opened, variant)
    opened.check(opened.manifest.files_of(variant))
    for device in devices:
        folder = build_engines(source, chosen, device, tell)
        tell(f"GPU {device}: {folder}")
