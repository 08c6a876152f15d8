"""Cohere: `/v1/embed`, `/v2/embed`, `/v1/tokenize`, `/v1/detokenize`. Its rerank routes are in `rerank`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from ...arrays import Float32
from ...errors import InputError
from ..asked import cut_of, prompt_for
from ..encoding import as_list, check_dimensions, encode, named, text_of
from ..exchange import Answer, Exchange
from ..fields import Value, done, refused
from ..numbers import in_base64, of_kind
from ..refusals import Dialect, Refusal, error_body, refusal_of
from ..routes import Route
from .openai import FAIR, WHO, Type, check_bytes
from .tei import check_ids, listed


def _error_body(refusal: Refusal, status: int, request_id: str) -> dict[str, Any]:
    """In the shapes of Cohere, Jina (`detail`), vLLM and llama.cpp (`error`), on the same routes."""
    facts = {"id": request_id, "message": refusal.message, "detail": refusal.message, "code": refusal.code}
    return facts | error_body(refusal, status, request_id)


DIALECT = Dialect("cohere", lambda refusal: refusal.meaning.folded, _error_body)

NO_IMAGES = refused("this model reads text; send texts", [])


class CohereEmbedV1Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    texts: list[Any] | None = None
    model: str | None = None
    input_type: Annotated[str | None, done("what the text is for; it chooses the prompt")] = None
    embedding_types: list[Type] | None = None
    truncate: Annotated[
        Literal["NONE", "START", "END", "none", "start", "end"] | None, done("what is cut off; NONE: refused")
    ] = None
    images: Annotated[Value, NO_IMAGES] = None


class CohereEmbedRequest(CohereEmbedV1Request):
    inputs: Annotated[list[Any] | None, done("texts as content; images are refused")] = None
    output_dimension: Annotated[int | None, done("cut, then normalised")] = None
    max_tokens: Annotated[int | None, done("tokens, special tokens included")] = None
    priority: Annotated[Value, FAIR] = None
    user: Annotated[Value, WHO] = None


class CohereTokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    text: str
    model: str | None = None


class CohereDetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    tokens: list[int]
    model: str | None = None


async def embed_v1(x: Exchange) -> Answer:
    """Floats alone, unless types are asked for."""
    request = await x.read(CohereEmbedV1Request)
    body = await _embed(x, request, None, None)
    body["meta"]["api_version"]["version"] = "1"
    if request.embedding_types is None:
        body |= {"embeddings": body["embeddings"]["float"], "response_type": "embeddings_floats"}
    return await x.answer(body)


async def embed(x: Exchange) -> Answer:
    request = await x.read(CohereEmbedRequest)
    return await x.answer(await _embed(x, request, request.inputs, request.output_dimension))


async def _embed(
    x: Exchange, request: CohereEmbedV1Request, inputs: list[Any] | None, dimension: int | None
) -> dict[str, Any]:
    """The body of the answer, with the vectors by their types."""
    if (request.texts is None) == (inputs is None):
        raise Refusal("missing_field", "send texts, or inputs with a text as content", param="texts")
    name, given = ("texts", request.texts) if request.texts is not None else ("inputs", inputs)
    model = x.server.embedder(request.model)
    dim = check_dimensions(x, model, dimension, name="output_dimension")
    kinds: list[Type] = list(dict.fromkeys(request.embedding_types or ["float"]))
    for kind in kinds:
        check_bytes(dim, kind, "embedding_types" if dimension is None else "output_dimension")
    prompt = prompt_for(x, model, request)
    texts, place = as_list(
        [text_of(item, f"{name}[{index}]") for index, item in enumerate(given or [])],
        x,
        named(name),
        x.server.options.max_inputs,
        "--max-inputs",
    )
    x.hold_echo()
    out = await encode(x, model, texts, place, prompt=prompt, **cut_of(request))
    dense = out.dense(dim)
    return {
        "id": x.id,
        "embeddings": {kind: _as(dense, kind) for kind in kinds},
        "texts": texts,
        "meta": _meta(x, "2", {"input_tokens": out.token_count, "image_tokens": 0})
        | {"truncated": out.truncated},
        "response_type": "embeddings_by_type",
    }


def _meta(x: Exchange, version: str, units: dict[str, int]) -> dict[str, Any]:
    meta: dict[str, Any] = {"api_version": {"version": version}, "billed_units": units}
    return meta | ({"warnings": list(x.warnings)} if x.warnings else {})


def _as(dense: Float32, kind: Type) -> list[Any]:
    """Vectors in one of Cohere's types."""
    if kind == "base64":
        return in_base64(np.ascontiguousarray(dense))
    return list(of_kind(dense, kind))


async def tokenize(x: Exchange) -> Answer:
    request = await x.read(CohereTokenizeRequest)
    try:
        pieces = await listed(x, x.server.embedder(request.model), request.text, specials=False)
    except InputError as error:
        raise refusal_of(error, "text") from None
    body = {
        "tokens": [piece["id"] for piece in pieces],
        "token_strings": [piece["text"] for piece in pieces],
        "meta": _meta(x, "1", {}),
    }
    return await x.answer(body)


async def detokenize(x: Exchange) -> Answer:
    request = await x.read(CohereDetokenizeRequest)
    model = x.server.embedder(request.model)
    check_ids(x, model, [request.tokens], "tokens", flat=True)
    text = await x.in_thread(model.tokenizer.join, request.tokens, True)
    return await x.answer({"text": text, "meta": _meta(x, "1", {})})


def routes() -> list[Route]:
    return [
        Route(
            method="POST",
            path="/v1/embed",
            handler=embed_v1,
            dialect=DIALECT,
            request=CohereEmbedV1Request,
            summary="Dense vectors, as clients of Cohere's first version ask for them",
        ),
        Route(
            method="POST",
            path="/v2/embed",
            handler=embed,
            dialect=DIALECT,
            request=CohereEmbedRequest,
            summary="Dense vectors, as Cohere's clients ask for them",
        ),
        Route(
            method="POST",
            path="/v1/tokenize",
            handler=tokenize,
            dialect=DIALECT,
            request=CohereTokenizeRequest,
            summary="Token ids and strings",
        ),
        Route(
            method="POST",
            path="/v1/detokenize",
            handler=detokenize,
            dialect=DIALECT,
            request=CohereDetokenizeRequest,
            summary="Token ids to text",
        ),
    ]
