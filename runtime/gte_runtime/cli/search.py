"""`gte search`: the best texts of a file for a query, by exact search."""

from __future__ import annotations

import click

from . import reading
from .options import form_of, input_options, max_length_option, model_options, unicode_option
from .terminal import show, show_json, tell

SHOWN = 100
"""Characters of a text that a table shows."""


@click.command()
@click.argument("queries", nargs=-1, required=True)
@click.option(
    "-i",
    "--input",
    "sources",
    multiple=True,
    required=True,
    help="A file or a pattern to search in; - is stdin. May be given several times.",
)
@input_options
@click.option("--keep", multiple=True, help="A further field or column to show. May be given several times.")
@click.option(
    "-k", "--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Texts to show."
)
@click.option("--dense-weight", type=float, default=1.0, show_default=True)
@click.option(
    "--sparse-weight",
    type=float,
    help="Default: 0.1 where the model has a sparse head. With 0 the search is dense.",
)
@click.option("--dim", type=int, help="Cut dense vectors to this many values.")
@click.option("--query-prompt", help="The prompt of the model to put before a query, such as query.")
@click.option("--format", "form", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
@max_length_option
@unicode_option
@model_options
def command(
    queries: tuple[str, ...],
    sources: tuple[str, ...],
    text_field: str,
    id_field: str | None,
    input_form: str | None,
    keep: tuple[str, ...],
    top_k: int,
    dense_weight: float,
    sparse_weight: float | None,
    dim: int | None,
    query_prompt: str | None,
    form: str,
    max_length: int | None,
    nfc: bool | None,
    model: str,
    variant: str | None,
    provider: str,
    threads: int | None,
) -> int:
    """The best texts of a file for each of QUERIES, best first.

    All texts are embedded and compared with each query; nothing is stored. The exit code is 3 if rows could
    not be embedded.
    """
    reading.from_arguments(queries)

    from ..errors import InputFileError
    from ..jobs.row import Fields
    from ..jobs.rows import open_rows
    from ..scoring import check_weight

    fields = Fields(text_field, id_field or "id", id_field is not None, keep)
    rows = open_rows(sources, fields, input_form)
    check_weight(dense_weight, "dense-weight")

    from ..embedder import Embedder
    from ..jobs.search import Index, Weights
    from ..machine.progress import Progress

    with Embedder.open(
        model, variant=variant, provider=provider, threads=threads, unicode=form_of(nfc)
    ) as gte:
        if sparse_weight is None:
            sparse_weight = 0.1 if gte.manifest.sparse else 0.0
        weights = Weights(dense_weight, check_weight(sparse_weight, "sparse-weight"))
        with Progress(rows.total, True) as advance:
            index = Index(gte, rows, weights, dim=dim, max_length=max_length, done=advance)
        for position, reason in index.rejected.items():
            tell(f"{index.rows[position].place}: {reason}")
        if len(index.rejected) == len(index.rows):
            raise InputFileError("there are no texts to search in")
        for number, query in enumerate(queries):
            if form == "table" and len(queries) > 1:
                show(("\n" if number else "") + query)
            for found in index.search(query, top_k, query_prompt):
                _show(query, found.index, found.score, found.document, form)
    if index.rejected:
        tell(f"{len(index.rejected)} of {len(index.rows)} rows could not be embedded")
    return 3 if index.rejected else 0


def _show(query: str, index: int, score: float, row: object, form: str) -> None:
    from ..jobs.row import Row

    assert isinstance(row, Row)
    if form == "jsonl":
        line = {"query": query, "index": index, "id": row.id, "score": round(score, 7), **row.kept}
        show_json(
            {name: value for name, value in line.items() if name != "id" or value is not None}
            | {"text": row.text}
        )
        return
    text = " ".join(str(row.text).split())
    short = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    kept = "".join(f"{value}  " for value in row.kept.values() if value is not None)
    name = row.place if row.id is None else str(row.id)
    show(f"{score:9.6f}  {name:10}  {kept}{short}")
