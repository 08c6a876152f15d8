"""Compares a bundle with numbers that others have published for its checkpoint. `gte verify` uses it.

The tests of this project cannot do that, since the weights are not available to them. The numbers are in
`published.json`, next to the `model.toml` of a named model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .embedder import Embedder
from .errors import BundleError
from .format.manifest import Manifest
from .format.named import NamedModel
from .format.values import parse_json
from .machine.files import read_regular
from .reranker import Reranker
from .tokenization import Tokenizer

FILE = "published.json"
FORMAT = 1

Numbers = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """The comparison of one published number with ours."""

    line: str
    """What was compared, and both numbers."""
    good: bool
    """They agree within the tolerance."""


def known_as(manifest: Manifest, models: Mapping[str, NamedModel]) -> NamedModel | None:
    """The named model that a bundle was built from, found by the hash of its weights or by the repository it
    was pulled from. None for another model, or for the repository at another commit.
    """
    hub, _, commit = manifest.origin.partition("@")
    for model in models.values():
        weights = model.files.get("model.safetensors")
        if weights is not None and weights.sha256 == manifest.source:
            return model
        if model.hub == hub and model.revision in (None, commit):
            return model
    return None


def read_published(model: NamedModel) -> list[Numbers]:
    """The numbers that are published for a model; empty for some."""
    try:
        raw = parse_json(read_regular(model.directory / FILE))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise BundleError(f"{model.name}/{FILE} cannot be read: {str(error)[:120]}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BundleError(f"{model.name}/{FILE} has another format; this version reads {FORMAT}")
    checks: list[Numbers] | None = raw.get("checks")
    if not isinstance(checks, list):
        raise BundleError(f"{model.name}/{FILE} has no list of checks")
    return checks


def compare(checks: list[Numbers], model: Embedder | Reranker, tokenizer: Tokenizer) -> Iterator[Found]:
    """Compare each published number. Allowed is its own tolerance or that of the variant, whichever is
    larger. Token ids come first, since a wrong tokenizer makes everything else wrong.

    Args:
        checks: as `read_published` returns them.
        model: an open variant of the bundle.
        tokenizer: the bundle's.
    """
    for check in checks:
        if check["kind"] == "ids":
            yield from _ids(check, tokenizer)
        elif isinstance(model, Reranker):
            yield from _logits(check, model)
        else:
            yield from OF_VECTORS[check["kind"]](check, model)


def _ids(check: Numbers, tokenizer: Tokenizer) -> Iterator[Found]:
    found = [tokens.ids.tolist() for tokens in tokenizer.encode(check["texts"], max_length=512)]
    same = sum(ours == theirs for ours, theirs in zip(found, check["ids"], strict=True))
    yield Found(f"token ids of {len(found)} texts: {same} the same ({check['source']})", same == len(found))


def _states(check: Numbers, gte: Embedder) -> Iterator[Found]:
    """Compare states of first tokens, [N, H], not normalised."""
    ours = gte.steps.run(gte.steps.tokens(check["texts"])).cls.astype(np.float64)
    theirs = np.array(check["cls"])
    allowed = max(check["tolerance"], gte.tolerance)
    least = min(check["cosine"], 1 - gte.tolerance**2 / 2)
    if ours.shape != theirs.shape:
        yield Found(
            f"states have {ours.shape[1]} values, published are {theirs.shape[1]} ({check['source']})", False
        )
        return
    for number, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        apart = float(np.linalg.norm(x - y) / np.linalg.norm(y))
        cosine = float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        yield Found(
            f"state of text {number}: relative distance {apart:.1e} (allowed {allowed:.0e}), "
            f"cosine {cosine:.7f} (at least {least:.5f}; {check['source']})",
            apart <= allowed and cosine >= least,
        )


def _cosines(check: Numbers, gte: Embedder) -> Iterator[Found]:
    """Compare the cosines of text 0 with the others."""
    dense = gte.encode(check["texts"], sparse=False).dense
    assert dense is not None
    found = dense[0].astype(np.float64) @ dense[1:].T.astype(np.float64)
    yield from _numbers("cosine of text 0 and text", found, check, check["cosines"], gte.tolerance)


def _query_cosines(check: Numbers, gte: Embedder) -> Iterator[Found]:
    """Compare the cosines of a query with documents. The query has the prompt named "query", if the model has
    one, as sentence-transformers' `encode_query` does it."""
    name = "query" if "query" in gte.manifest.prompts else ""
    query = gte.encode(check["query"], sparse=False, prompt_name=name).dense
    documents = gte.encode(check["documents"], sparse=False, prompt_name="").dense
    assert query is not None
    assert documents is not None
    found = query[0].astype(np.float64) @ documents.T.astype(np.float64)
    yield from _numbers(
        "cosine of query and document", found, check, check["cosines"], gte.tolerance, first=0
    )


def _weights(check: Numbers, gte: Embedder) -> Iterator[Found]:
    """Compare how many sparse weights all texts have together."""
    sparse = gte.encode(check["texts"], dense=False, sparse=True).sparse
    assert sparse is not None
    count, allowed = sum(len(vector.indices) for vector in sparse), check["tolerance"]
    line = (
        f"sparse weights of {len(check['texts'])} texts: {count}, published {check['count']} "
        f"(allowed ±{allowed}; {check['source']})"
    )
    yield Found(line, abs(count - check["count"]) <= allowed)


def _logits(check: Numbers, reranker: Reranker) -> Iterator[Found]:
    found = reranker.score([(query, document) for query, document in check["pairs"]], max_length=512).astype(
        np.float64
    )
    scale = max(1.0, max(abs(logit) for logit in check["logits"]))
    yield from _numbers("score of pair", found, check, check["logits"], reranker.tolerance * scale, first=0)


def _numbers(
    what: str,
    found: NDArray[np.float64],
    check: Numbers,
    published: list[float],
    tolerance: float,
    first: int = 1,
) -> Iterator[Found]:
    allowed = max(check["tolerance"], tolerance)
    for number, (value, expected) in enumerate(zip(found.tolist(), published, strict=True), first):
        difference = abs(value - expected)
        yield Found(
            f"{what} {number}: {value:.7f}, published {expected:.7f} (difference {difference:.1e}, "
            f"allowed {allowed:.0e}; {check['source']})",
            difference <= allowed,
        )


OF_VECTORS: dict[str, Callable[[Numbers, Embedder], Iterator[Found]]] = {
    "states": _states,
    "cosines": _cosines,
    "query_cosines": _query_cosines,
    "weights": _weights,
}
