"""`gte verify`: hashes, the self-check of every variant, and published values where the model is a known one."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import SelfCheckFailed


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def command(bundle: Path) -> None:
    """Hash a BUNDLE and compare it with its recorded vectors.

    For checkpoints whose numbers others have published, those are compared, too.
    """
    from ..build import judge
    from ..bundle import Bundle
    from ..embedder import Embedder
    from ..published import compare, known
    from ..selfcheck import self_check
    from ..tokenization import Tokenizer

    opened = Bundle.open(bundle)
    manifest = opened.manifest
    opened.check(tuple(manifest.files), "always")
    click.echo(f"hashes     {len(manifest.files)} files as in the manifest")
    tokenizer = Tokenizer(opened.read("tokenizer.json"), manifest.tokenizer)
    for name, variant in manifest.variants.items():
        session = judge(opened.directory, manifest, name)
        try:
            worst = self_check(manifest, name, tokenizer, session, thorough=True)
        finally:
            session.close()
        how = " (in numpy: no CPU has its kernels)" if variant.batch == "packed" else ""
        click.echo(f"self-check {name}: largest distance {worst:.1e}, allowed {variant.tolerance:.0e}{how}")
    published = known(manifest.source)
    if published is None:
        click.echo("published  none for this checkpoint")
        return
    with Embedder.open(bundle) as gte:
        failed = False
        for line, good in compare(published, gte):
            click.echo(f"published  {line}")
            failed |= not good
    if failed:
        raise SelfCheckFailed("a published value differs by more than its tolerance")
