"""Texts of a command: its arguments, or the rows of its input."""

from __future__ import annotations

from ..jobs.row import Fields
from ..jobs.rows import Rows, of_texts, open_rows


def from_arguments(texts: tuple[str, ...]) -> Rows:
    """Each argument as a row. Raises UsageError for one that is not valid UTF-8."""
    for number, text in enumerate(texts, 1):
        try:
            text.encode()
        except UnicodeEncodeError:
            import click

            raise click.UsageError(f"text {number}: argument is not valid UTF-8") from None
    return of_texts(texts)


def from_input(
    sources: tuple[str, ...],
    text_field: str,
    id_field: str | None,
    form: str | None,
    keep: tuple[str, ...] = (),
) -> Rows:
    """The rows of the inputs, or of stdin if there is none. Arguments are those of `options.input_options`;
    errors are those of `jobs.rows.open_rows`."""
    fields = Fields(text_field, id_field or "id", id_field is not None, keep)
    return open_rows(sources or ("-",), fields, form)
