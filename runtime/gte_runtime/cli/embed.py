"""`gte embed`: texts from arguments, a file or stdin; vectors as JSONL, npy, npz or parquet."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from . import reading, writing
from .options import (
    form_of,
    gpu_options,
    input_option,
    input_options,
    max_length_option,
    model_options,
    unicode_option,
)
from .terminal import tell

if TYPE_CHECKING:
    from ..results import Embeddings


@click.command()
@click.argument("texts", nargs=-1)
@input_option
@input_options
@click.option("-o", "--output", default="-", show_default=True, help="Where to write; - is stdout.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "npy", "npz", "parquet"]),
    help="Default: by the output's name, else jsonl.",
)
@click.option("--dim", type=int, help="Cut dense vectors to this many values, then normalise.")
@click.option("--sparse/--no-sparse", default=False, help="Give sparse vectors too.")
@click.option("--dense/--no-dense", default=True, help="Give dense vectors.")
@click.option("--truncate/--no-truncate", default=True, help="Cut texts over --max-length, or reject them.")
@click.option(
    "--normalize/--no-normalize",
    default=True,
    help="Give vectors of length 1, or as the model computes them.",
)
@click.option("--prompt-name", help="The prompt of the model to put before every text, such as query.")
@max_length_option
@unicode_option
@model_options
@gpu_options
def command(
    texts: tuple[str, ...],
    sources: tuple[str, ...],
    output: str,
    form: str | None,
    text_field: str,
    id_field: str | None,
    input_form: str | None,
    dim: int | None,
    sparse: bool,
    dense: bool,
    truncate: bool,
    normalize: bool,
    prompt_name: str | None,
    max_length: int | None,
    nfc: bool | None,
    model: str,
    variant: str | None,
    provider: str,
    threads: int | None,
    devices: tuple[int, ...],
    gpu_mem_limit: int | None,
) -> int:
    """Texts to vectors.

    Input from a pipe is embedded and written whenever the pipe pauses. Rows that cannot be embedded are
    reported on stderr; the others are written, and the exit code is 3.
    """
    if not (dense or sparse):
        raise click.UsageError("--no-dense without --sparse leaves nothing to write")
    if texts and sources:
        raise click.UsageError("give texts or --input, not both")
    # What needs no model is checked before the model loads.
    rows = (
        reading.from_arguments(texts)
        if texts
        else reading.from_input(sources, text_field, id_field, input_form)
    )
    form = writing.format_of(output, form)
    writing.check(output, form, () if texts else sources or ("-",), dense=dense)
    for text in texts:
        _note_a_file(text)

    from ..embedder import Embedder
    from ..machine.progress import Progress

    rejected = 0
    with (
        Embedder.open(
            model,
            variant=variant,
            provider=provider,
            threads=threads,
            devices=devices,
            gpu_mem_limit=gpu_mem_limit,
            unicode=form_of(nfc),
        ) as gte,
        writing.open_writer(
            output,
            form,
            dim or gte.manifest.truncate_dim or gte.dim,
            gte.manifest.architecture.vocab_size,
            dense,
            sparse,
        ) as writer,
        Progress(rows.total, output != "-" or not sys.stdout.isatty()) as advance,
    ):
        while not rows.ended:
            first = rows.count
            parts = gte.stream(
                (row.text for row in rows.until_pause()),  # type: ignore[misc]
                dense=dense,
                sparse=sparse,
                dim=dim,
                max_length=max_length,
                truncate=truncate,
                prompt_name=prompt_name,
                normalize=normalize,
            )
            for part in (_counted_from(first, each) for each in parts):
                writer.write(part, rows.ids(part.index))
                for row in part.rejected:
                    rejected += 1
                    reason = rows.problem(row.index) or (
                        row.error.reason if isinstance(row.error, InputError) else str(row.error)
                    )
                    tell(f"{rows.place(row.index)}: {reason}")
                rows.forget(len(part) + len(part.rejected))
                advance(len(part) + len(part.rejected))
    if rejected:
        tell(f"{rejected} of {rows.count} rows were rejected")
    return 3 if rejected else 0


def _counted_from(first: int, part: Embeddings) -> Embeddings:
    """A part of a stream with positions in the whole input, of which the stream began at row `first`."""
    return replace(
        part,
        index=part.index + first,
        rejected=tuple(replace(row, index=row.index + first) for row in part.rejected),
    )


def _note_a_file(text: str) -> None:
    """A text that is the name of a file here was probably meant as the file."""
    if len(text) < 256 and Path(text).suffix and Path(text).is_file():
        tell(f"note: the name {text} is embedded, not the file; -i {text} reads it")
