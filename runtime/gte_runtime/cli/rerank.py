"""`gte rerank`: documents by how well they answer a query."""

from __future__ import annotations

import click

from ..errors import InputError
from . import reading
from .options import form_of, input_option, input_options, reranker_options, unicode_option
from .terminal import show, show_json, tell


@click.command()
@click.argument("query")
@click.argument("documents", nargs=-1)
@input_option
@input_options
@click.option("--top-k", type=click.IntRange(min=1), help="Print so many of the best. Default: all.")
@click.option("--sigmoid", is_flag=True, help="Scores from 0 to 1 instead of the model's own.")
@click.option("--truncate/--no-truncate", default=True, help="Cut pairs over --max-length, or refuse them.")
@click.option(
    "--max-length",
    type=int,
    help="Tokens of query and document, special tokens included. Default: the checkpoint's own limit, at "
    "most 8192.",
)
@click.option("--format", "form", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
@unicode_option
@reranker_options
def command(
    query: str,
    documents: tuple[str, ...],
    sources: tuple[str, ...],
    text_field: str,
    id_field: str | None,
    input_form: str | None,
    top_k: int | None,
    sigmoid: bool,
    truncate: bool,
    max_length: int | None,
    form: str,
    nfc: bool | None,
    model: str,
    variant: str | None,
    provider: str,
    threads: int | None,
) -> int:
    """Rank DOCUMENTS by how well they answer QUERY, best first.

    Lines of an input that are no document are reported on stderr; the others are ranked, and the exit code is
    3.
    """
    if documents and sources:
        raise click.UsageError("give documents or --input, not both")
    reading.from_arguments((query, *documents))
    rows = (
        reading.from_arguments(documents)
        if documents
        else reading.from_input(sources, text_field, id_field, input_form)
    )

    from ..reranker import Reranker
    from ..tokenization import check_text

    with Reranker.open(
        model, variant=variant, provider=provider, threads=threads, unicode=form_of(nfc)
    ) as gte:
        kept, texts = [], []
        for index, row in enumerate(rows):
            try:
                texts.append(check_text(row.text, index))
                kept.append(index)
            except InputError as error:
                tell(f"{rows.place(index)}: {rows.problem(index) or error.reason}")
        ranked = (
            gte.rank(query, texts, top_k, True, max_length, truncate, show_progress=True, sigmoid=sigmoid)
            if texts
            else []
        )
    identities = rows.ids(kept)
    for found in ranked:
        if form == "table":
            show(f"{found.score:9.6f}  {found.document}")
            continue
        identity = identities[found.index]
        line = {
            "index": kept[found.index],
            "id": identity,
            "score": round(found.score, 7),
            "document": found.document,
        }
        show_json({key: value for key, value in line.items() if key != "id" or value is not None})
    rejected = rows.count - len(kept)
    if rejected:
        tell(f"{rejected} of {rows.count} documents were rejected")
    return 3 if rejected else 0
