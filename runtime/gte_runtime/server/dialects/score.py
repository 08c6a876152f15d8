"""Scores of pairs, in vLLM's shapes and on its scale.

That is the cosine of an embedder, and the score of a reranker between 0 and 1. With `dense_weight` or
`sparse_weight`, which are ours, an embedder gives the hybrid score of `Embedder.score`.
"""

from __future__ import annotations

import math
import time
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np

from ...scoring import hybrid_of_pairs, sigmoid
from ..asked import at_least_0, contradiction, cut_of, raw_of
from ..encoding import Encoded, check_dimensions, encode, text_of
from ..exchange import Answer, Exchange
from ..fields import Value, done
from ..models import EmbeddingModel, RerankerModel
from ..refusals import Refusal
from ..routes import Route
from .native import usage, warnings_of
from .openai import DIALECT, FAIR, LISTED, NO_CACHE, NO_INSTRUCTION, NO_MEDIA, PADDING, WHO, Side

Some = str | dict[str, Any] | list[Any]
"""One text or many, each a string or an object that holds one."""


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
    dense_weight: Annotated[float | None, done("hybrid scores; 1 if only the other is given")] = None
    sparse_weight: Annotated[
        float | None, done("hybrid scores; 0.1 if only the other is given, 0 without a sparse head")
    ] = None
    dimensions: Annotated[int | None, done("of an embedder: cut, then normalised")] = None
    use_activation: Annotated[bool | None, done("false: a reranker's own scores, which have no bounds")] = (
        None
    )
    raw_scores: Annotated[bool | None, done("as use_activation false")] = None
    truncate: Annotated[bool | None, done("true unless it is false")] = None
    max_length: Annotated[int | None, done("tokens, special tokens included")] = None
    truncate_prompt_tokens: Annotated[int | None, done("as max_length; -1 is the model's limit")] = None
    truncation_side: Side | None = None
    max_tokens_per_query: Annotated[int | None, done("of a reranker; 0: no limit")] = None
    max_tokens_per_doc: Annotated[int | None, done("of a reranker; 0: no limit")] = None
    instruction: Annotated[Value, NO_INSTRUCTION] = None
    chat_template_kwargs: Annotated[Value, NO_INSTRUCTION] = None
    mm_processor_kwargs: Annotated[Value, NO_MEDIA] = None
    padding: Annotated[Value, PADDING] = None
    request_id: Annotated[str | None, done("the id of the answer")] = None
    user: Annotated[Value, WHO] = None
    priority: Annotated[Value, FAIR] = None
    cache_salt: Annotated[Value, NO_CACHE] = None


NAMES = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))


async def score(x: Exchange) -> Answer:
    request = await x.read(ScoreRequest)
    x.named(request.request_id)
    most_of_each = (
        at_least_0("max_tokens_per_query", request.max_tokens_per_query),
        at_least_0("max_tokens_per_doc", request.max_tokens_per_doc),
    )
    raw_scores = raw_of(request)
    left_name, right_name, left, right = _sides(x, request)
    out: Encoded[EmbeddingModel] | Encoded[RerankerModel]
    if _wants_reranker(x, request.model):
        reranker = x.server.reranker(request.model)
        for name in ("dense_weight", "sparse_weight", "dimensions"):
            if getattr(request, name) is not None:
                raise Refusal("invalid_value", f"{name} is for an embedder; this is a reranker", param=name)
        out = await encode(
            x,
            reranker,
            [(left[i if len(left) > 1 else 0], right[i]) for i in range(len(right))],
            lambda i: f"{right_name}[{i}]",
            most_of_each=most_of_each,
            **cut_of(request),
        )
        raw = np.array([state.logit for state in out.states], np.float32)
        scores = (raw if raw_scores else sigmoid(raw)).tolist()
    else:
        for name, value in zip(("max_tokens_per_query", "max_tokens_per_doc"), most_of_each, strict=True):
            if value is not None:
                message = f"{name} is for a reranker; send truncate_prompt_tokens"
                raise Refusal("invalid_value", message, param=name)
        if raw_scores:
            x.warnings.append("use_activation and raw_scores have no effect on the scores of an embedder")
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
    return await x.answer(body | warnings_of(x))


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
    """Cosines, or hybrid scores as `Embedder.score` computes them. A text that occurs twice is run once."""
    dense_weight, sparse_weight = 1.0, 0.0
    if request.dense_weight is not None or request.sparse_weight is not None:
        dense_weight = 1.0 if request.dense_weight is None else request.dense_weight
        sparse_weight = (
            (0.1 if model.sparse else 0.0) if request.sparse_weight is None else request.sparse_weight
        )
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

    out = await encode(x, model, unique, place, **cut_of(request))

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


def _texts(value: Any, name: str) -> list[str]:
    if not isinstance(value, list):
        return [text_of(value, name)]
    return [text_of(item, f"{name}[{index}]") for index, item in enumerate(value)]


def _sides(x: Exchange, request: ScoreRequest) -> tuple[str, str, list[str], list[str]]:
    """The names of the two fields that are given, and their texts. Raises Refusal."""
    sent = [name for name in dict.fromkeys(chain(*NAMES)) if getattr(request, name) is not None]
    given = next((pair for pair in NAMES if set(pair) <= set(sent)), None)
    if given is None:
        raise Refusal(
            "missing_field",
            "send queries and documents, text_1 and text_2, or data_1 and data_2",
            param="queries",
        )
    for other in sent:
        if other not in given:
            of_left = any(other == left for left, _ in NAMES)
            raise contradiction(given[0] if of_left else given[1], other)
    left_name, right_name = given
    left, right = (_texts(getattr(request, name), name) for name in given)
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
    summary = "Scores of pairs: cosines, hybrid scores, or a reranker's"
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
