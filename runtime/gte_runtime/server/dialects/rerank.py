"""Reranking in the dialects of TEI, Cohere, Jina, Voyage, vLLM, llama.cpp and infinity.

At `/rerank` the body tells them apart: TEI sends `texts`, all others `documents`. A document is answered as
it came if it was an object, else as {"text": ...}, as Cohere, Jina and vLLM do; infinity answers with a plain
string, but its requests look like theirs.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import numpy as np

from ...arrays import Float32
from ...scoring import sigmoid
from ..asked import agreed, at_least_0, contradiction, cut_of, raw_of
from ..encoding import encode, named, text_of
from ..exchange import Answer, Exchange
from ..fields import Value, done, refused, warned
from ..refusals import Refusal
from ..routes import Route
from . import cohere, tei
from .native import usage, warnings_of
from .openai import FAIR, NO_CACHE, NO_INSTRUCTION, NO_MEDIA, PADDING, WHO, How, Side

OF_TEI = refused("it belongs to text-embeddings-inference, whose route is /rerank; here send documents")
NO_CHUNKS = warned(
    "documents are not split: send the parts as documents, or cut them with max_tokens_per_doc"
)


class RerankRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    query: str | dict[str, Any]
    documents: list[Any] | None = None
    """Strings, or objects that hold a text."""
    texts: Annotated[Value, OF_TEI] = None
    model: str | None = None
    top_n: Annotated[int | None, done("0 or more than there are: all")] = None
    top_k: Annotated[int | None, done("as top_n")] = None
    return_documents: bool | None = None
    return_text: Annotated[Value, OF_TEI] = None
    raw_scores: Annotated[bool | None, done("true: the model's own scores, which have no bounds")] = None
    use_activation: Annotated[bool | None, done("false: as raw_scores true")] = None
    truncate: Annotated[
        How | None, done("true, END: the end is cut off; START: the beginning; false, NONE: refused")
    ] = None
    truncation: Annotated[bool | None, done("as truncate")] = None
    truncation_direction: Side | None = None
    truncation_side: Side | None = None
    truncate_prompt_tokens: Annotated[int | None, done("of query and document; -1 is the model's limit")] = (
        None
    )
    max_tokens_per_doc: Annotated[int | None, done("0: no limit")] = None
    max_doc_length: Annotated[int | None, done("as max_tokens_per_doc")] = None
    max_tokens_per_query: Annotated[int | None, done("0: no limit")] = None
    max_query_length: Annotated[int | None, done("as max_tokens_per_query")] = None
    max_chunks_per_doc: Annotated[Value, NO_CHUNKS] = None
    rank_fields: Annotated[
        list[str] | None, done("the fields of a document that are read, in this order")
    ] = None
    relevant_spans: Annotated[Value, refused("a document has one score")] = None
    return_embeddings: Annotated[Value, refused("a reranker has no vectors", False)] = None
    instruction: Annotated[Value, NO_INSTRUCTION] = None
    chat_template_kwargs: Annotated[Value, NO_INSTRUCTION] = None
    mm_processor_kwargs: Annotated[Value, NO_MEDIA] = None
    padding: Annotated[Value, PADDING] = None
    request_id: Annotated[str | None, done("the id of the answer")] = None
    user: Annotated[Value, WHO] = None
    priority: Annotated[Value, FAIR] = None
    cache_salt: Annotated[Value, NO_CACHE] = None


class AnyRerankRequest(RerankRequest):
    """With what TEI sends. Either `texts` or `documents`."""

    texts: list[Any] | None = None
    return_text: bool | None = None


async def rerank(x: Exchange) -> Answer:
    """In the dialect that the body tells."""
    names = await x.names()
    x.dialect = cohere.DIALECT if "documents" in names and not names.get("texts") else tei.DIALECT
    return await _rerank(x, await x.read(AnyRerankRequest), return_documents=True)


async def rerank_v1(x: Exchange) -> Answer:
    return await _rerank(x, await x.read(RerankRequest), return_documents=True)


async def rerank_v2(x: Exchange) -> Answer:
    return await _rerank(x, await x.read(RerankRequest), return_documents=False)


async def _rerank(x: Exchange, request: RerankRequest, return_documents: bool) -> Answer:
    """`return_documents` is for requests that do not say: vLLM, whose types demand it, and Jina return them;
    Cohere does not."""
    x.named(request.request_id)
    if request.texts is None and request.documents is None:
        either = "send either texts (as to TEI) or documents (as to Cohere)"
        message = either if isinstance(request, AnyRerankRequest) else "the field documents is missing"
        raise Refusal("missing_field", message, param="documents")
    if request.texts is not None and request.documents is not None:
        raise contradiction("texts", "documents")
    as_tei = request.texts is not None
    name = "texts" if as_tei else "documents"
    sent: list[Any] = request.texts if as_tei else request.documents or []
    model = x.server.reranker(request.model)
    query = text_of(request.query, "query")
    if not query and not x.server.options.allow_empty:
        raise Refusal("empty_input", "query is an empty string", param="query")
    if not sent:
        raise Refusal("empty_input", f"{name} is empty; send at least one", param=name)
    if len(sent) > (most := x.server.options.max_documents):
        raise Refusal(
            "too_many_inputs",
            f"{name} has {len(sent)} texts, the limit is {most} (--max-documents)",
            param=name,
        )
    best = at_least_0(*agreed(request, "top_n", "top_k"))
    raw_scores = raw_of(request)
    per_query = at_least_0(*agreed(request, "max_tokens_per_query", "max_query_length"))
    per_document = at_least_0(*agreed(request, "max_tokens_per_doc", "max_doc_length"))
    cut = cut_of(request)
    documents = [_text(item, f"{name}[{i}]", request.rank_fields) for i, item in enumerate(sent)]
    if request.rank_fields and not all(isinstance(item, dict) for item in sent):
        x.warnings.append(f"rank_fields has no effect on {name} that are strings")
    asked = agreed(request, "return_documents", "return_text")[1]
    with_documents = asked if asked is not None else return_documents and not as_tei
    if with_documents:
        x.hold_echo()
    pairs = [(query, document) for document in documents]
    out = await encode(x, model, pairs, named(name), most_of_each=(per_query, per_document), **cut)
    raw = np.array([state.logit for state in out.states], np.float32)
    scores = raw if raw_scores else sigmoid(raw)
    order = np.argsort(-raw, kind="stable")[: best or None].tolist()
    if as_tei:
        answer = await x.answer([_tei(row, scores, documents, with_documents) for row in order])
        answer.headers |= tei.counts(x) | ({"x-truncated": str(out.truncated)} if out.truncated else {})
        return answer
    meta: dict[str, Any] = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    body = {
        "id": x.id,
        "object": "rerank",
        "model": model.name,
        "results": [_cohere(row, scores, sent, with_documents) for row in order],
        "usage": usage(out),
        "meta": meta | warnings_of(x),
        "created": int(time.time()),
    }
    return await x.answer(body | warnings_of(x))


def _text(item: Any, where: str, rank_fields: list[str] | None) -> str:
    if not (rank_fields and isinstance(item, dict)):
        return text_of(item, where)
    values = []
    for name in rank_fields:
        value = item.get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            shown = name if name.isprintable() and len(name) <= 60 else "a field of rank_fields"
            raise Refusal("invalid_value", f"{where}: {shown} is not a string or a number", param=where)
        values.append(str(value))
    return "\n".join(values)


def _tei(row: int, scores: Float32, documents: list[str], with_text: bool) -> dict[str, Any]:
    return {"index": row, "score": scores[row]} | ({"text": documents[row]} if with_text else {})


def _cohere(row: int, scores: Float32, sent: list[Any], with_document: bool) -> dict[str, Any]:
    document = sent[row] if isinstance(sent[row], dict) else {"text": sent[row]}
    return {"index": row, "relevance_score": scores[row]} | ({"document": document} if with_document else {})


def routes() -> list[Route]:
    summary = "Documents by how well they answer a query"
    either = Route(
        method="POST",
        path="/rerank",
        handler=rerank,
        dialect=tei.DIALECT,
        other_dialects=(cohere.DIALECT,),
        request=AnyRerankRequest,
        summary=summary,
    )
    versions = [
        Route(
            method="POST",
            path=path,
            handler=handler,
            dialect=cohere.DIALECT,
            request=RerankRequest,
            summary=summary,
        )
        for path, handler in (("/v1/rerank", rerank_v1), ("/v2/rerank", rerank_v2))
    ]
    return [either, *versions]
