"""OpenAI: `/v1/embeddings` and `/v1/models`, with the fields that other servers have at the same address.

Those are vLLM, Jina, Voyage, Mistral, NVIDIA's NIM, infinity, llama.cpp and text-embeddings-inference.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from ...arrays import Float32
from ..asked import agreed, contradiction, cut_of, prompt_for
from ..encoding import as_list, check_dimensions, encode, named
from ..exchange import Answer, Exchange, json_answer
from ..fields import Value, done, refused, unused, warned
from ..models import EmbeddingModel, ServedModel
from ..numbers import Endianness, FloatType, Kind, in_base64, of_kind
from ..refusals import Dialect, Refusal, error_body
from ..routes import Route
from .native import Texts, usage, warnings_of

DIALECT = Dialect("openai", lambda refusal: refusal.meaning.folded, error_body)

FAIR = warned("all requests are treated alike, in the order of fair queueing", 0)
NO_CACHE = unused("there is no cache between requests")
NO_CHAT = refused("this model has no chat template; send texts as input")
NO_MEDIA = refused("this model reads text")
NO_INSTRUCTION = refused("this model takes no instruction; put it into the text")
PADDING = refused("nothing is padded", "do_not_pad")
SPECIAL = refused("the vector is that of the first special token, so they are always added", True)
WHO = unused("who asks changes nothing")

How = bool | Literal["NONE", "START", "END", "none", "start", "end"]
"""Whether to cut, or what to cut off."""
Side = Literal["left", "right", "Left", "Right"]
Type = Kind | Literal["base64"]


class EmbeddingsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    input: Texts
    model: str | None = None
    encoding_format: Annotated[Literal["float", "base64"] | None, done("base64 of little-endian bytes")] = (
        None
    )
    dimensions: Annotated[int | None, done("cut, then normalised")] = None
    user: Annotated[Value, WHO] = None

    # vLLM
    truncate_prompt_tokens: Annotated[int | None, done("-1 is the model's limit")] = None
    truncation_side: Side | None = None
    use_activation: Annotated[bool | None, done("false: not normalised")] = None
    embed_dtype: Annotated[FloatType | None, done("of floats in base64")] = None
    endianness: Annotated[Endianness | None, done("of floats in base64")] = None
    request_id: Annotated[str | None, done("the id of the answer")] = None
    priority: Annotated[Value, FAIR] = None
    cache_salt: Annotated[Value, NO_CACHE] = None
    padding: Annotated[Value, PADDING] = None
    add_special_tokens: Annotated[Value, SPECIAL] = None
    messages: Annotated[Value, NO_CHAT] = None
    chat_template: Annotated[Value, NO_CHAT] = None
    chat_template_kwargs: Annotated[Value, NO_CHAT] = None
    add_generation_prompt: Annotated[Value, refused(NO_CHAT.why, False)] = None
    continue_final_message: Annotated[Value, refused(NO_CHAT.why, False)] = None
    mm_processor_kwargs: Annotated[Value, NO_MEDIA] = None
    media_io_kwargs: Annotated[Value, NO_MEDIA] = None

    # Jina, Voyage, Mistral, NVIDIA's NIM
    embedding_type: Annotated[Type | list[Type] | None, done("the type of numbers, or base64 of floats")] = (
        None
    )
    output_dtype: Annotated[Kind | None, done("the type of numbers")] = None
    output_dimension: Annotated[int | None, done("as dimensions")] = None
    normalized: Annotated[bool | None, done("false: not normalised")] = None
    normalize: Annotated[bool | None, done("false: not normalised")] = None
    input_type: Annotated[str | None, done("what the text is for; it chooses the prompt")] = None
    task: Annotated[str | None, done("as input_type")] = None
    prompt_name: Annotated[str | None, done('a prompt of the model, or "" for none')] = None
    truncate: Annotated[
        How | None, done("true, END: the end is cut off; START: the beginning; false, NONE: refused")
    ] = None
    truncation: Annotated[bool | None, done("as truncate")] = None
    late_chunking: Annotated[Value, refused("every text has a vector of its own", False)] = None
    return_multivector: Annotated[Value, refused("a vector per token is at /embed_all", False)] = None
    metadata: Annotated[Value, WHO] = None

    # infinity, llama.cpp
    modality: Annotated[Literal["text"] | list[Literal["text"]] | None, done("text")] = None
    embd_normalize: Annotated[Value, refused("send normalize, true or false", 2)] = None


async def embeddings(x: Exchange) -> Answer:
    return await x.answer(await embed(x, await x.read(EmbeddingsRequest)))


async def embed(x: Exchange, request: EmbeddingsRequest, zero_is_all: bool = False) -> dict[str, Any]:
    """The body of the answer. `zero_is_all`: 0 dimensions are all of them."""
    x.named(request.request_id)
    model = x.server.embedder(request.model)
    name, dimensions = agreed(request, "dimensions", "output_dimension")
    dim = check_dimensions(x, model, dimensions, name=name, zero_is_all=zero_is_all)
    normalise = agreed(request, "normalized", "normalize", "use_activation")[1] is not False
    written = _written(x, request, dim, normalise)
    prompt = prompt_for(x, model, request)
    texts, place = as_list(request.input, x, named("input"), x.server.options.max_inputs, "--max-inputs")
    out = await encode(x, model, texts, place, prompt=prompt, **cut_of(request))
    rows = await x.in_thread_if_large(written, out.dense(dim, normalise))
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    body = {
        "id": f"embd-{x.id}",
        "object": "list",
        "created": int(time.time()),
        "data": data,
        "model": model.name,
        "usage": usage(out),
    }
    return body | warnings_of(x)


def _written(
    x: Exchange, request: EmbeddingsRequest, dim: int, normalise: bool
) -> Callable[[Float32], list[Any]]:
    """How vectors are written into the answer.

    Raises:
        Refusal: fields contradict each other, or the vector does not fill whole bytes.
    """
    wanted = request.embedding_type
    types = wanted if isinstance(wanted, list) else [wanted or "float"]
    if len(set(types)) != 1:
        raise Refusal(
            "invalid_value", "embedding_type: send one type; /v2/embed takes several", param="embedding_type"
        )
    base64 = request.encoding_format == "base64" or types[0] == "base64"
    if request.encoding_format == "float" and types[0] == "base64":
        raise contradiction("encoding_format", "embedding_type")
    kind: Kind = request.output_dtype or ("float" if types[0] == "base64" else types[0])
    if wanted is not None and request.output_dtype is not None and types[0] not in (kind, "base64"):
        raise contradiction("embedding_type", "output_dtype")
    field = "embedding_type" if request.output_dtype is None else "output_dtype"
    check_bytes(dim, kind, field)
    if kind in ("int8", "uint8") and not normalise:
        x.warnings.append(f"{field}={kind}: without normalising, values below -1 and above 1 are cut off")
    floats, endianness = request.embed_dtype or "float32", request.endianness or "little"
    if (floats != "float32" or endianness == "big") and not (base64 and kind == "float"):
        x.warnings.append("embed_dtype and endianness have no effect here: they are for floats in base64")

    def write(dense: Float32) -> list[Any]:
        rows = of_kind(dense, kind)
        return in_base64(rows, floats, endianness) if base64 else list(rows)

    return write


def check_bytes(dim: int, kind: str, field: str) -> None:
    """Raises Refusal for binary vectors that do not fill whole bytes."""
    if dim % 8 and kind in ("binary", "ubinary"):
        message = f"{field}: {kind} needs a multiple of 8 dimensions, and there are {dim}"
        raise Refusal("invalid_dimensions", message, param=field)


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
        "max_model_len": model.max_length,
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
