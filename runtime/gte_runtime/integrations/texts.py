"""What the modules of this folder share: a model by name or opened, and prompts of queries and documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..embedder import Embedder
from ..errors import ConfigError
from ..results import Embeddings

Model = str | Path | Embedder
"""A bundle directory, the name of a shipped or pulled model, or a model that is open already."""

QUERY, DOCUMENT = ("query",), ("document", "passage")
"""Names of prompts, of which the first that the model has is put before each text."""


def opened(model: Model, options: dict[str, Any]) -> Embedder:
    """The model; `options` are those of `Embedder.open`."""
    if isinstance(model, Embedder):
        if options:
            raise ConfigError(f"the model is open already, so {', '.join(options)} would have no effect")
        return model
    return Embedder.open(model, **options)


def encoded(embedder: Embedder, texts: Sequence[str], names: Sequence[str], **options: Any) -> Embeddings:
    """`Embedder.encode` with the first of the named prompts that the model has, or its default one."""
    prompt = next((name for name in names if name in embedder.manifest.prompts), None)
    if names == QUERY and options["sparse"]:
        return of_queries(embedder, list(texts), prompt, options.get("dense", True), options.get("dim"))
    out: Embeddings = embedder.encode(list(texts), prompt_name=prompt, **options)
    return out


def of_queries(
    embedder: Embedder, texts: list[str], prompt_name: str | None, dense: bool, dim: int | None
) -> Embeddings:
    """Sparse vectors of queries, which some models make by a table, and dense ones."""
    steps = embedder.steps
    tokens = steps.tokens(texts, prompt_name=prompt_name)
    return steps.queries(tokens, dense=dense, sparse=True, dim=steps.check_dim(dim))
