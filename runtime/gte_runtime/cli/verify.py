"""`gte verify`: hashes, the self-check of every variant, and published values where the model is a known one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ..errors import SelfCheckFailed


@click.command()
@click.argument("model")
def command(model: str) -> None:
    """Hash a bundle and compare it with its recorded vectors.

    MODEL is a bundle directory, or the name of a shipped or pulled model. For checkpoints whose numbers others
    have published, those are compared, too.
    """
    from ..catalog.locate import locate

    verify(locate(model), click.echo)


def verify(bundle: Path, say: Callable[[str], object]) -> None:
    """Raises BundleError when a file, a vector or a published value is not as it should be."""
    check_itself(bundle, say)
    check_published(bundle, say)


def check_itself(bundle: Path, say: Callable[[str], object]) -> None:
    """Files against the manifest's hashes, and what runs against its vectors. A build does both as it writes."""
    from ..building.judge import judge
    from ..bundle.directory import Bundle
    from ..proof.selfcheck import self_check
    from ..tokenization import Tokenizer

    opened = Bundle.open(bundle)
    manifest = opened.manifest
    opened.check(tuple(manifest.files), "always")
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
    """Numbers that others have published, where the model is one of which there are any."""
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
        with (Reranker if manifest.reranker else Embedder).open(bundle, variant=name) as engine:
            for found in compare(checks, engine, tokenizer):
                say(f"published  {name}: {'' if found.good else 'DIFFERS: '}{found.line}")
                failed |= not found.good
    if failed:
        raise SelfCheckFailed("a published value differs by more than its tolerance")
