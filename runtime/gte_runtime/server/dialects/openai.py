"""OpenAI: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from ..body import Ignored
from ..encoding import as_list, check_dimensions, encode, named
from ..exchange import Answer, Exchange, json_answer
from ..models import EmbeddingModel, ServedModel
from ..refusals import Dialect, Refusal, error_body
from ..routes import Route
from .native import Texts, usage, vectors

DIALECT = Dialect("openai", lambda refusal: refusal.meaning.folded, error_body)


class EmbeddingsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    input: Texts
    """One text or many."""
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: Ignored = None
    input_type: Ignored = None
    priority: Ignored = None
    cache_salt: Ignored = None
    request_id: Ignored = None


async def embeddings(x: Exchange) -> Answer:
    return await x.answer(await embed(x, await x.read(EmbeddingsRequest)))


class Embeddings(Protocol):
    """What OpenAI's and infinity's requests have in common."""

    input: Texts
    model: str | None
    encoding_format: Literal["float", "base64"] | None
    dimensions: int | None


async def embed(x: Exchange, request: Embeddings, zero_is_all: bool = False) -> dict[str, Any]:
    """The body of the answer. `zero_is_all`: 0 dimensions are all of them."""
    model = x.server.embedder(request.model)
    dim = check_dimensions(x, model, request.dimensions, zero_is_all=zero_is_all)
    texts, place = as_list(request.input, x, named("input"), x.server.options.max_inputs, "--max-inputs")
    out = await encode(x, model, texts, place, prompt=model.prompt(None))
    rows = vectors(out, dim, request.encoding_format)
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    return {
        "object": "list",
        "data": data,
        "model": model.name,
        "usage": usage(out),
    }


def described(x: Exchange, model: ServedModel) -> dict[str, Any]:
    """A model as `/v1/models` lists it."""
    facts: dict[str, Any] = {}
    if isinstance(model, EmbeddingModel):
        facts = {
            "dimensions": model.dim,
            "smallest_dimensions": model.manifest.smallest_dim,
            "sparse": model.sparse,
        }
    return {
        "id": model.name,
        "object": "model",
        "created": x.server.created,
        "owned_by": "gte-runtime",
        "kind": model.kind,
        "variant": model.info["variant"],
        "max_length": model.max_length,
        **facts,
    }


async def models(x: Exchange) -> Answer:
    return json_answer({"object": "list", "data": [described(x, model) for model in x.server.models]})


async def one_model(x: Exchange) -> Answer:
    name = x.segment("/v1/models/")
    model = x.server.named(name)
    if model is None:
        message = "there is no model of this name; GET /v1/models lists what there is"
        raise Refusal("model_not_found", message, param="model")
    return json_answer(described(x, model))


LISTED = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}},
}


def routes() -> list[Route]:
    return [
        Route(
            method="POST",
            path="/v1/embeddings",
            handler=embeddings,
            dialect=DIALECT,
            request=EmbeddingsRequest,
            answer=LISTED,
            summary="Dense vectors, as OpenAI's clients ask for them",
        ),
        Route(
            method="GET",
            path="/v1/models",
            handler=models,
            dialect=DIALECT,
            answer=LISTED,
            needs_ready=False,
            summary="Models",
        ),
        Route(
            method="GET",
            path="/v1/models/{id}",
            handler=one_model,
            dialect=DIALECT,
            needs_ready=False,
            summary="One model",
        ),
    ]
