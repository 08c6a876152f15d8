"""`gte tokens`: the tokens of a text and their sparse weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import reading
from .options import form_of, max_length_option, model_options, unicode_option
from .terminal import show, show_json

if TYPE_CHECKING:
    from ..tokenization import Form


@click.command()
@click.argument("texts", nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
@max_length_option
@unicode_option
@model_options
def command(
    texts: tuple[str, ...],
    form: str,
    max_length: int | None,
    nfc: bool | None,
    model: str,
    variant: str | None,
    provider: str,
    threads: int | None,
) -> None:
    """Tokens of a text and their sparse weights.

    The table lists the tokens in order. The weight of a token is the largest of its occurrences; special
    tokens have none. JSONL gives {token: weight}, the form the model's authors publish.
    """
    reading.from_arguments(texts)

    from ..embedder import Embedder

    with Embedder.open(
        model, variant=variant, provider=provider, threads=threads, unicode=form_of(nfc)
    ) as gte:
        if form == "jsonl":
            for weights in gte.token_weights(texts, max_length=max_length):
                show_json({token: round(weight, 6) for token, weight in weights.items()})
            return
        out = gte.encode(texts, dense=False, max_length=max_length)
        for row, text in enumerate(texts):
            weights_by_id = out.sparse[row].as_dict() if out.sparse is not None else {}
            show(f"{text}   ({out.tokens[row]} tokens{_form_of(text, gte.info['unicode'])})")
            for token, piece in gte.tokenize(text, max_length=max_length):
                weight = f"{weights_by_id[token]:8.4f}" if token in weights_by_id else "       -"
                show(f"{token:>8}{weight}  {piece or '▁'}")


def _form_of(text: str, read_as: Form) -> str:
    """What the table says of the form of a text that is not in NFC."""
    from ..tokenization import is_composed

    if is_composed(text):
        return ""
    return ", composed to NFC" if read_as == "NFC" else ", not in NFC: --nfc composes it"
