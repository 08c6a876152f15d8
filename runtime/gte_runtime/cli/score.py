"""`gte score`: hybrid scores of documents for a query."""

from __future__ import annotations

import click

from . import reading
from .options import form_of, max_length_option, model_options, unicode_option
from .terminal import show, show_json


@click.command()
@click.argument("query")
@click.argument("documents", nargs=-1, required=True)
@click.option("--dense-weight", type=float, default=1.0, show_default=True)
@click.option(
    "--sparse-weight",
    type=float,
    default=0.1,
    show_default=True,
    help="The authors' script uses 0.1, the model card 0.3.",
)
@click.option("--dim", type=int, help="Cut dense vectors to this many values.")
@click.option("--format", "form", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
@max_length_option
@unicode_option
@model_options
def command(
    query: str,
    documents: tuple[str, ...],
    dense_weight: float,
    sparse_weight: float,
    dim: int | None,
    form: str,
    max_length: int | None,
    nfc: bool | None,
    model: str,
    variant: str | None,
    provider: str,
    threads: int | None,
) -> None:
    """Hybrid scores of documents for a query, best first."""
    reading.from_arguments((query, *documents))

    from ..embedder import Embedder

    with Embedder.open(
        model, variant=variant, provider=provider, threads=threads, unicode=form_of(nfc)
    ) as gte:
        pairs = [(query, document) for document in documents]
        scores = gte.score(pairs, dense_weight, sparse_weight, dim=dim, max_length=max_length)
    for index in sorted(range(len(documents)), key=lambda i: -scores[i]):
        score = float(scores[index])
        if form == "jsonl":
            show_json({"index": index, "score": round(score, 7), "document": documents[index]})
        else:
            show(f"{score:9.6f}  {documents[index]}")
