"""`gte doctor`: what this machine and installation can run, and the command that fixes what they cannot."""

from __future__ import annotations

import sys
from typing import Any

import click

from .terminal import show, show_json


@click.command()
@click.argument("model", required=False)
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda", "tensorrt"]),
    help="The one to judge. Default: cuda where onnxruntime-gpu is installed, else cpu.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(model: str | None, provider: str | None, as_json: bool) -> int:
    """CPU, control group, providers, CUDA libraries, driver, GPUs, TensorRT; with MODEL, where its nodes run.

    The last line is the verdict. The exit code is 5 if something must be fixed.
    """
    from ..device import doctor

    found = doctor.examine()
    good, line = doctor.verdict(found, provider)
    placed = _placements(model, provider) if model is not None and found.providers else []
    if as_json:
        show_json({**found.as_dict(), "placement": placed, "ready": good, "verdict": line})
        return 0 if good else 5
    for name, answer in doctor.lines(found):
        show(f"{name:<12}{answer}")
    for one in placed:
        show(f"{'placement':<12}{_placement(one)}")
    sys.stdout.flush()
    show(f"{'verdict':<12}{line}")
    return 0 if good else 5


def _placements(model: str, provider: str | None) -> list[dict[str, Any]]:
    """For every variant, how many of its nodes run on which provider, or why it does not load."""
    from ..bundle.directory import Bundle
    from ..catalog.locate import locate
    from ..device.doctor import placement
    from ..errors import GteError
    from ..opening import VARIANTS

    bundle = Bundle.open(locate(model))
    placed = []
    for name in bundle.manifest.variants:
        suited = [each for each, variants in VARIANTS.items() if name in variants and each != "tensorrt"]
        for each in [provider] if provider is not None and provider in suited else suited[:1]:
            try:
                variant = bundle.variant(name)
                placed.append(
                    {
                        "variant": name,
                        **placement(bundle.read(variant.graph), bundle.directory, variant, each),
                    }
                )
            except GteError as error:
                placed.append({"variant": name, "provider": each, "error": str(error)})
    return placed


def _placement(one: dict[str, Any]) -> str:
    head = f"{one['variant']} on {one['provider']}: "
    if "error" in one:
        return f"{head}{one['error']}"
    nodes = ", ".join(
        f"{count} nodes on {name.removesuffix('ExecutionProvider')}" for name, count in one["nodes"].items()
    )
    others = ", ".join(f"{count} {name}" for name, count in one["elsewhere"].items())
    return head + nodes + (f" ({others})" if others else "")
