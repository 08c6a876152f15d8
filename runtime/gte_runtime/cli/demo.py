"""`gte demo`: the model card's texts, dense, sparse and hybrid."""

from __future__ import annotations

import click
import numpy as np

from .options import model_options
from .terminal import escaped, tell

TEXTS = ("what is the capital of China?", "how to implement quick sort in python?", "北京", "快排算法介绍")
QUERIES = ("中国的首都在哪儿", "quick sort 算法")
"""The first shares no word with its answers: its meaning alone finds them. The second shares words."""
STRONGEST = 6


@click.command()
@model_options
def command(model: str, variant: str | None, provider: str, threads: int | None) -> None:
    """Embed the model card's texts and show what comes out."""
    from ..embedder import Embedder

    with Embedder.open(model, variant=variant, provider=provider, threads=threads) as gte:
        if gte.manifest.notice:
            tell(f"note: {gte.manifest.notice}")
        out = gte.encode(TEXTS, sparse=False)
        assert out.dense is not None
        click.echo(
            f"{escaped(gte.info['model'])}, {gte.info['variant']}, {gte.info['threads']} threads, "
            f"{gte.dim} dimensions\n"
        )
        for number, (text, tokens) in enumerate(zip(TEXTS, out.tokens, strict=True)):
            click.echo(f"  [{number}] {text}   ({tokens} tokens)")
        click.echo("\nDense similarity (cosine)")
        click.echo(_matrix(out.dense @ out.dense.T))
        if not gte.manifest.sparse:
            click.echo("\nThis checkpoint has no sparse head.")
            return
        click.echo("\nStrongest sparse tokens")
        for number, weights in enumerate(gte.token_weights(TEXTS)):
            strongest = sorted(weights.items(), key=lambda item: -item[1])[:STRONGEST]
            words = (f"{escaped(token) or '▁'} {weight:.2f}" for token, weight in strongest)
            click.echo(f"  [{number}] " + "  ".join(words))
        for query in QUERIES:
            click.echo(f"\nScores for the query {query}\n       dense  sparse  hybrid (1.0 and 0.3)")
            pairs = [(query, text) for text in TEXTS]
            columns = [
                gte.score(pairs, dense, sparse) for dense, sparse in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.3))
            ]
            for number, scores in enumerate(zip(*columns, strict=True)):
                click.echo(
                    f"  [{number}]  " + "  ".join(f"{score:6.3f}" for score in scores) + f"  {TEXTS[number]}"
                )


def _matrix(similarity: np.ndarray) -> str:
    head = "       " + "".join(f"   [{n}] " for n in range(len(similarity)))
    rows = [f"  [{n}]  " + "".join(f"{value:6.3f} " for value in row) for n, row in enumerate(similarity)]
    return "\n".join([head, *rows])
