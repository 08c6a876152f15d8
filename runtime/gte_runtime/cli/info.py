"""`gte info`: what is installed, and what is in a bundle."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

from .terminal import show, show_json

if TYPE_CHECKING:
    from ..bundle.directory import Bundle


@click.command()
@click.argument("model", default="gte-mini")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(model: str, as_json: bool) -> None:
    """Versions, providers and threads of this installation, and what is in the bundle MODEL."""
    from ..bundle.directory import Bundle
    from ..catalog.locate import locate
    from ..device.runtime import available_providers
    from ..machine.threads import thread_count

    bundle = Bundle.open(locate(model))
    manifest, a = bundle.manifest, bundle.manifest.architecture
    facts: dict[str, Any] = {
        "gte-runtime": _version("gte-runtime"),
        "onnxruntime": _version("onnxruntime") or _version("onnxruntime-gpu"),
        "tokenizers": _version("tokenizers"),
        "numpy": _version("numpy"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "providers": list(available_providers()),
        "threads": thread_count(),
        "model": manifest.model,
        "bundle": bundle.digest[:12],
        "made_by": manifest.made_by,
        "kind": "reranker" if manifest.reranker else "embedding model",
        "layers": a.layers,
        "dimensions": manifest.dim,
        "max_length": manifest.max_length or a.max_positions,
        "vocabulary": a.vocab_size,
        "sparse": manifest.sparse,
        "variants": {
            name: {
                **_invariance(bundle, name),
                "tolerance": v.tolerance,
                "megabytes": round(
                    sum(manifest.files[file].size for file in manifest.files_of(name)) / 1e6, 1
                ),
            }
            for name, v in manifest.variants.items()
        },
    }
    if not manifest.reranker:
        layers = [f"{layer.inputs} x {layer.outputs} {layer.activation}" for layer in manifest.dense]
        facts["pooling"] = [*manifest.pooling, *layers]
        facts["normalized"] = manifest.normalize
        facts["similarity"] = manifest.similarity
    if manifest.origin:
        facts["origin"] = manifest.origin
    if manifest.unicode != "exact":
        facts["unicode"] = manifest.unicode
    if manifest.truncate_dim:
        facts["truncate_dim"] = manifest.truncate_dim
    if manifest.prompts:
        facts["prompts"] = list(manifest.prompts)
        facts["default_prompt"] = manifest.default_prompt or "none"
    if manifest.notice:
        facts["notice"] = manifest.notice
    if as_json:
        show_json(facts)
        return
    for key, value in facts.items():
        if key == "variants":
            for name, variant in value.items():
                show(f"{'variant':<14}{name}: " + ", ".join(f"{k} {v}" for k, v in variant.items()))
        else:
            show(f"{key + ' ':<14}{', '.join(value) if isinstance(value, list) else value}")


def _invariance(bundle: Bundle, name: str) -> dict[str, bool | float | None]:
    """Batch invariance on this machine. If it was not measured before, the variant is opened, which does
    it."""
    from ..bundle.load import known_invariance
    from ..embedder import Embedder
    from ..machine.threads import thread_count
    from ..proof.invariance import Invariance
    from ..reranker import Reranker

    variant = bundle.variant(name)
    if variant.batch == "packed":
        return Invariance(False, None).as_info()
    if known := known_invariance(bundle, name, thread_count()):
        return known.as_info()
    with (Reranker if bundle.manifest.reranker else Embedder).open(bundle.directory, variant=name) as opened:
        return {key: opened.info[key] for key in ("batch_invariant", "batch_difference")}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
