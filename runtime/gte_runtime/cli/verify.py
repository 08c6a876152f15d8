"""`gte verify`: the hashes of a bundle, the self-check of every variant, and published values for named
models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ..errors import SelfCheckFailed
from .terminal import show


@click.command()
@click.argument("model")
def command(model: str) -> None:
    """Hash a bundle and compare it with its recorded vectors.

    MODEL is a bundle directory, or the name of a shipped or pulled model. If others have published numbers
    for its checkpoint, those are compared, too.
    """
    from ..catalog.locate import locate

    verify(locate(model), show)


def verify(bundle: Path, say: Callable[[str], object]) -> None:
    """Check a bundle and say what was compared. Raises BundleError where a file, a vector or a published
    value differs."""
    check_itself(bundle, say)
    check_published(bundle, say)


def check_itself(bundle: Path, say: Callable[[str], object]) -> None:
    """Compare files with the manifest's hashes, and every variant's results with its self-check. A build does
    both, too."""
    from ..building.judge import judge
    from ..bundle.directory import Bundle
    from ..bundle.load import check_finite, inspect_variant
    from ..proof.selfcheck import self_check
    from ..tokenization import Tokenizer

    opened = Bundle.open(bundle)
    manifest = opened.manifest
    facts = [inspect_variant(opened, name) for name in manifest.variants]
    opened.check(tuple(manifest.files), "always")
    check_finite(opened, facts)
    say(f"hashes     {len(manifest.files)} files as in the manifest")
    tokenizer = Tokenizer(opened.read("tokenizer.json"), manifest.tokenizer)
    for name, variant in manifest.variants.items():
        session = judge(opened.directory, manifest, name)
        try:
            worst = self_check(manifest, name, tokenizer, session, thorough=True)
        finally:
            session.close()
        what = "difference" if manifest.reranker else "distance"
        how = " (in numpy: no CPU has its kernels)" if variant.batch == "packed" else ""
        say(f"self-check {name}: largest {what} {worst:.1e}, allowed {variant.tolerance:.0e}{how}")


def check_published(bundle: Path, say: Callable[[str], object]) -> None:
    """Compare with numbers that others have published for this checkpoint, if there are any."""
    from ..bundle.directory import Bundle
    from ..embedder import Embedder
    from ..format.models import models_directory
    from ..format.named import named_models
    from ..reranker import Reranker
    from ..tokenization import Tokenizer
    from ..verify import compare, known_as, read_published

    opened = Bundle.open(bundle)
    manifest = opened.manifest
    model = known_as(manifest, named_models(models_directory()))
    checks = read_published(model) if model else []
    if not checks:
        say("published  none for this checkpoint")
        return
    tokenizer = Tokenizer(opened.read("tokenizer.json"), manifest.tokenizer)
    failed = False
    for name in manifest.variants:
        with (Reranker if manifest.reranker else Embedder).open(bundle, variant=name) as opened_model:
            for found in compare(checks, opened_model, tokenizer):
                say(f"published  {name}: {'' if found.good else 'DIFFERS: '}{found.line}")
                failed |= not found.good
    if failed:
        raise SelfCheckFailed("a published value differs by more than its tolerance")
