"""Scores of pairs, in vLLM's shapes: hybrid scores with their weights, or a reranker's when it is named."""

from __future__ import annotations

import math
import time

import msgspec

from ...scoring import hybrid_of_pairs
from ..body import Ignored
from ..encoding import Encoded, check_dimensions, encode
from ..exchange import Answer, Exchange
from ..models import EmbeddingModel, RerankerModel
from ..refusals import Refusal
from ..routes import Route
from .native import usage
from .openai import DIALECT, LISTED

Some = str | list[str]


class ScoreRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """1 to 1, 1 to N or N to N, under one of the pairs of names."""

    queries: Some | None = None
    documents: Some | None = None
    items: Some | None = None
    text_1: Some | None = None
    text_2: Some | None = None
    data_1: Some | None = None
    data_2: Some | None = None
    model: str | None = None
    dense_weight: float | None = None
    sparse_weight: float | None = None
    """Default: 0.1, or 0 where the model has no sparse head."""
    dimensions: int | None = None
    truncate: bool | None = None
    max_length: int | None = None
    user: Ignored = None
    priority: Ignored = None
    cache_salt: Ignored = None
    request_id: Ignored = None


NAMES = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))


async def score(x: Exchange) -> Answer:
    request = await x.read(ScoreRequest)
    left_name, right_name, left, right = _sides(x, request)
    out: Encoded[EmbeddingModel] | Encoded[RerankerModel]
    if _wants_reranker(x, request.model):
        reranker = x.server.reranker(request.model)
        out = await encode(
            x,
            reranker,
            [(left[i if len(left) > 1 else 0], right[i]) for i in range(len(right))],
            lambda i: f"{right_name}[{i}]",
            max_length=request.max_length,
            truncate=request.truncate is not False,
        )
        scores = [state.logit for state in out.states]
    else:
        embedder = x.server.embedder(request.model)
        scores, out = await _hybrid(x, embedder, request, left, right, left_name, right_name)
    body = {
        "id": x.id,
        "object": "list",
        "created": int(time.time()),
        "model": out.model.name,
        "data": [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)],
        "usage": usage(out),
    }
    return await x.answer(body)


def _wants_reranker(x: Exchange, name: str | None) -> bool:
    named = x.server.named(name)
    if named is not None:
        return isinstance(named, RerankerModel)
    return not any(isinstance(model, EmbeddingModel) for model in x.server.models)


async def _hybrid(
    x: Exchange,
    model: EmbeddingModel,
    request: ScoreRequest,
    left: list[str],
    right: list[str],
    left_name: str,
    right_name: str,
) -> tuple[list[float], Encoded[EmbeddingModel]]:
    """Hybrid scores as `Embedder.score` computes them. A text that occurs twice is run once."""
    dense_weight = 1.0 if request.dense_weight is None else request.dense_weight
    sparse_weight = (0.1 if model.sparse else 0.0) if request.sparse_weight is None else request.sparse_weight
    for name, value in (("dense_weight", dense_weight), ("sparse_weight", sparse_weight)):
        if not math.isfinite(value) or abs(value) > 1e6:
            raise Refusal("invalid_value", f"{name}: expected a number from -1e6 to 1e6", param=name)
    if sparse_weight and not model.sparse:
        raise Refusal(
            "invalid_value",
            f"{model.name} has no sparse head; leave out sparse_weight",
            param="sparse_weight",
        )
    dim = check_dimensions(x, model, request.dimensions)
    unique = list(dict.fromkeys([*left, *right]))
    row = {text: index for index, text in enumerate(unique)}

    def place(index: int | None) -> str:
        text = unique[index or 0]
        return f"{right_name}[{right.index(text)}]" if text in right else f"{left_name}[{left.index(text)}]"

    out = await encode(
        x, model, unique, place, max_length=request.max_length, truncate=request.truncate is not False
    )

    def scores() -> list[float]:
        dense = out.dense(dim)
        weights = (
            [model.by_string(t, s) for t, s in zip(out.tokens, out.states, strict=True)]
            if sparse_weight
            else []
        )
        pairs = [
            (row[left[index if len(left) > 1 else 0]], row[document]) for index, document in enumerate(right)
        ]
        found: list[float] = hybrid_of_pairs(pairs, dense, weights, dense_weight, sparse_weight).tolist()
        return found

    return await x.in_thread_if_large(scores), out


def _sides(x: Exchange, request: ScoreRequest) -> tuple[str, str, list[str], list[str]]:
    """The names of the two fields that are given, and their texts. Raises Refusal."""
    given = [(a, b) for a, b in NAMES if getattr(request, a) is not None and getattr(request, b) is not None]
    if len(given) != 1:
        raise Refusal(
            "missing_field",
            "send queries and documents, text_1 and text_2, or data_1 and data_2",
            param="queries",
        )
    left_name, right_name = given[0]
    left, right = (
        v if isinstance(v, list) else [v] for v in (getattr(request, left_name), getattr(request, right_name))
    )
    for name, side in ((left_name, left), (right_name, right)):
        if not side:
            raise Refusal("empty_input", f"{name} is empty; send at least one text", param=name)
        if len(side) > (most := x.server.options.max_documents):
            raise Refusal(
                "too_many_inputs",
                f"{name} has {len(side)} texts, the limit is {most} (--max-documents)",
                param=name,
            )
        if "" in side and not x.server.options.allow_empty:
            where = f"{name}[{side.index('')}]"
            raise Refusal("empty_input", f"{where} is an empty string; leave it out", param=where)
    if len(left) not in (1, len(right)):
        raise Refusal(
            "invalid_value",
            f"{left_name} has {len(left)} texts and {right_name} {len(right)}; send 1 to N or N to N",
            param=left_name,
        )
    return left_name, right_name, left, right


def routes() -> list[Route]:
    summary = "Scores of pairs: hybrid, or a reranker's"
    return [
        Route(
            method="POST",
            path=p,
            handler=score,
            dialect=DIALECT,
            request=ScoreRequest,
            answer=LISTED,
            summary=summary,
        )
        for p in ("/score", "/v1/score")
    ]
