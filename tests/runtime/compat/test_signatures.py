"""Our copies of other libraries' call shapes have their parameters: names, order, kinds and defaults."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from signatures import SOURCES, Parameter, Source, download, read_signatures, read_table

from gte_runtime import compat

OURS: dict[str, Any] = {
    "SentenceTransformer": compat.SentenceTransformer,
    "CrossEncoder": compat.CrossEncoder,
    "SparseEncoder": compat.SparseEncoder,
    "M3Embedder": compat.BGEM3FlagModel,
}
OWN_DEFAULTS = {
    ("SentenceTransformer", "model_name_or_path"): "'gte-mini'",
    # Either of two names must be given, so neither can be required.
    ("SentenceTransformer", "inputs"): "None",
    ("SparseEncoder", "model_name_or_path"): "'gte-mini'",
    ("SparseEncoder", "inputs"): "None",
    ("CrossEncoder", "model_name_or_path"): "'gte-multilingual-reranker-base'",
    ("CrossEncoder", "inputs"): "None",
}


def parameters(method: Any) -> list[Parameter]:
    found = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
    return [
        Parameter(p.name, p.kind is p.KEYWORD_ONLY, None if p.default is p.empty else repr(p.default))
        for p in found
    ]


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name in OURS for method in read_table()[name]]
)
def test_parameters(name: str, method: str):
    """All of theirs stand first, in their order; what we add comes after them."""
    theirs = read_table()[name][method]
    ours = parameters(getattr(OURS[name], method))
    expected = [
        Parameter(p.name, p.keyword_only, OWN_DEFAULTS.get((name, p.name), p.default)) for p in theirs
    ]
    assert ours[: len(theirs)] == expected


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_table_is_what_the_packages_say(source: Source, tmp_path: Path):
    """The committed table against the wheels of the named versions, where a registry answers."""
    try:
        text = download(source, tmp_path)
    except OSError as error:
        pytest.skip(f"no package registry: {error}")
    found = read_signatures(text, source.name, source.methods)
    assert sorted(found) == sorted(source.methods)
    assert found == read_table()[source.name]
