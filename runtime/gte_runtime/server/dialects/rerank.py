"""Reranking in the dialects of TEI, Cohere, Jina, vLLM and infinity.

The body tells them apart: TEI sends `texts`, all others `documents`. With `return_documents` a document is
answered as {"text": ...}, as Cohere, Jina and vLLM do; infinity answers with a plain string, but its requests
look like theirs.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np

from ...arrays import Float32
from ...scoring import sigmoid
from ..body import Ignored
from ..encoding import encode, named
from ..exchange import Answer, Exchange
from ..refusals import Refusal
from ..routes import Route
from . import cohere, tei
from .native import usage


class Document(msgspec.Struct, forbid_unknown_fields=False):
    text: str


class RerankRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    query: str
    texts: list[str] | None = None
    """TEI."""
    documents: list[str | Document] | None = None
    """All the others."""
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    raw_scores: bool | None = None
    """The model's own scores, which have no bounds, instead of scores from 0 to 1."""
    truncate: bool | None = None
    truncation_direction: Ignored = None
    max_tokens_per_doc: int | None = None
    max_chunks_per_doc: Ignored = None
    max_doc_length: Ignored = None
    rank_fields: Ignored = None
    user: Ignored = None
    priority: Ignored = None
    cache_salt: Ignored = None
    request_id: Ignored = None


async def rerank(x: Exchange) -> Answer:
    request = await x.read(RerankRequest)
    if (request.texts is None) == (request.documents is None):
        raise Refusal(
            "missing_field", "send either texts (as to TEI) or documents (as to Cohere)", param="documents"
        )
    as_tei = request.texts is not None
    x.dialect = tei.DIALECT if as_tei else cohere.DIALECT
    name = "texts" if as_tei else "documents"
    documents = request.texts if request.texts is not None else [_text(d) for d in request.documents or []]
    model = x.server.reranker(request.model)
    if not request.query and not x.server.options.allow_empty:
        raise Refusal("empty_input", "query is an empty string", param="query")
    if not documents:
        raise Refusal("empty_input", f"{name} is empty; send at least one", param=name)
    if len(documents) > (most := x.server.options.max_documents):
        raise Refusal(
            "too_many_inputs",
            f"{name} has {len(documents)} texts, the limit is {most} (--max-documents)",
            param=name,
        )
    if request.top_n is not None and request.top_n < 0:
        raise Refusal(
            "invalid_value",
            "top_n is negative; expected how many of the best to return, 0 or null for all",
            param="top_n",
        )
    if request.return_documents or request.return_text:
        x.hold_echo()
    pairs = [(request.query, document) for document in documents]
    out = await encode(x, model, pairs, named(name), truncate=request.truncate is not False)
    raw = np.array([state.logit for state in out.states], np.float32)
    scores = raw if request.raw_scores else sigmoid(raw)
    order = np.argsort(-raw, kind="stable")[: request.top_n or None].tolist()
    if as_tei:
        answer = await x.answer([_tei(row, scores, documents, bool(request.return_text)) for row in order])
        answer.headers |= tei.counts(x) | ({"x-truncated": str(out.truncated)} if out.truncated else {})
        return answer
    results = [_cohere(row, scores, documents, bool(request.return_documents)) for row in order]
    body = {
        "id": x.id,
        "object": "rerank",
        "model": model.name,
        "results": results,
        "usage": usage(out),
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
        "created": int(time.time()),
    }
    return await x.answer(body)


def _text(document: str | Document) -> str:
    return document if isinstance(document, str) else document.text


def _tei(row: int, scores: Float32, documents: list[str], with_text: bool) -> dict[str, Any]:
    return {"index": row, "score": scores[row]} | ({"text": documents[row]} if with_text else {})


def _cohere(row: int, scores: Float32, documents: list[str], with_text: bool) -> dict[str, Any]:
    return {"index": row, "relevance_score": scores[row]} | (
        {"document": {"text": documents[row]}} if with_text else {}
    )


def routes() -> list[Route]:
    both = [("/rerank", tei.DIALECT), ("/v1/rerank", cohere.DIALECT), ("/v2/rerank", cohere.DIALECT)]
    summary = "Documents by how well they answer a query"
    return [
        Route(method="POST", path=p, handler=rerank, dialect=d, request=RerankRequest, summary=summary)
        for p, d in both
    ]
