"""text-embeddings-inference (TEI): lists in, lists out, counts in headers. Its `/rerank` is in `rerank`."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, Protocol

import msgspec
import orjson

from ...arrays import Float32
from ...errors import InputError
from ...version import __version__
from ..body import Ignored
from ..encoding import Encoded, as_list, check_dimensions, encode, named, prompt_of
from ..exchange import Answer, Exchange, fragment, json_answer
from ..models import EmbeddingModel, RerankerModel
from ..refusals import Dialect, Refusal, refusal_of
from ..routes import Handler, Route
from .native import VECTOR, Texts, sparse_as, vectors


def _error_body(refusal: Refusal, status: int, request_id: str) -> dict[str, Any]:
    return {"error": refusal.message, "error_type": refusal.meaning.tei_type}


DIALECT = Dialect("tei", lambda refusal: refusal.meaning.tei, _error_body)

ROWS = 256
"""Vectors that are written to JSON at a time: it takes some milliseconds at a width of 768."""

Direction = Literal["Left", "Right", "left", "right"]


class Sentences(msgspec.Struct, forbid_unknown_fields=True):
    source_sentence: str
    sentences: list[str]


class EmbedRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    inputs: Texts
    normalize: bool | None = None
    dimensions: int | None = None
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class RootRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Hub clients post every task to the bare URL."""

    inputs: Texts | Sentences
    parameters: dict[str, Ignored] | None = None
    options: Ignored = None
    normalize: bool | None = None
    dimensions: int | None = None
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class SparseRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    inputs: Texts
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class EmbedAllRequest(SparseRequest):
    normalize: Ignored = None
    """Sent by tei-client. TEI has no such field here, and ignores it."""


class SimilarityParameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class SimilarityRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    inputs: Sentences
    parameters: SimilarityParameters | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    ids: list[int | list[int]]
    skip_special_tokens: bool = True


async def root(x: Exchange) -> Answer:
    request = await x.read(RootRequest)
    if isinstance(request.inputs, Sentences):
        return await _similarity(x, request.inputs, SimilarityParameters())
    return await _embed(x, request)


async def embed(x: Exchange) -> Answer:
    return await _embed(x, await x.read(EmbedRequest))


async def _embed(x: Exchange, request: EmbedRequest | RootRequest) -> Answer:
    model = x.server.embedder(None)
    dim = check_dimensions(x, model, request.dimensions)
    out = await _encode(x, model, request.inputs, request)
    return await _answer(x, out, vectors(out, dim, None, request.normalize is not False))


async def embed_sparse(x: Exchange) -> Answer:
    request = await x.read(SparseRequest)
    model = x.server.embedder(None)
    if not model.sparse:
        raise Refusal("wrong_model_kind", f"{model.name} has no sparse head")
    out = await _encode(x, model, request.inputs, request)
    rows = await x.in_thread_if_large(
        lambda: [
            fragment(sparse_as(model, t, s, "list")) for t, s in zip(out.tokens, out.states, strict=True)
        ]
    )
    return await _answer(x, out, rows)


async def embed_all(x: Exchange) -> Answer:
    """The states of all tokens of each text, special tokens included, not normalised, as TEI gives them."""
    request = await x.read(EmbedAllRequest)
    model = x.server.embedder(None)
    if not model.gives_states:
        raise Refusal(
            "wrong_model_kind",
            f"the bundle of {model.name} gives no vectors per token; build it again with this version",
        )
    out = await _encode(x, model.per_token, request.inputs, request, per_token=True)
    answer = await _answer(x, out, [])
    answer.body = await _nested(
        [state.token_states for state in out.states if state.token_states is not None]
    )
    return answer


async def _nested(texts: list[Float32]) -> bytes:
    """[[[float]]] as JSON, written in pieces, so that other requests get the event loop in between."""
    parts: list[bytes] = []
    for states in texts:
        rows = []
        for start in range(0, len(states), ROWS):
            rows.append(json_answer(states[start : start + ROWS]).body[1:-1])
            await asyncio.sleep(0)
        parts.append(b"[" + b",".join(rows) + b"]")
    return b"[" + b",".join(parts) + b"]"


async def similarity(x: Exchange) -> Answer:
    request = await x.read(SimilarityRequest)
    return await _similarity(x, request.inputs, request.parameters or SimilarityParameters())


async def _similarity(x: Exchange, inputs: Sentences, parameters: SimilarityParameters) -> Answer:
    model = x.server.embedder(None)
    if not inputs.sentences:
        raise Refusal("empty_input", "inputs.sentences is empty; send at least one", param="inputs.sentences")
    out = await _encode(x, model, [inputs.source_sentence, *inputs.sentences], parameters)
    dense = out.dense(check_dimensions(x, model, None))
    return await _answer(x, out, list((dense[1:] @ dense[0]).tolist()))


async def tokenize(x: Exchange) -> Answer:
    request = await x.read(TokenizeRequest)
    model = x.server.embedder(None)
    prompt = prompt_of(model, request.prompt_name, "prompt_name")
    texts, place = as_list(request.inputs, x, named("inputs"), x.server.options.max_inputs, "--max-inputs")
    if sum(map(len, texts)) > x.server.options.max_request_tokens:
        raise Refusal(
            "request_too_large",
            "inputs are too long to be listed token by token (--max-request-tokens)",
            param="inputs",
        )
    pieces = []
    left = x.server.options.max_request_tokens
    for index, text in enumerate(texts):
        try:
            count, piece = await x.in_thread(
                _listed, model, prompt + text, request.add_special_tokens, max(1, left)
            )
        except InputError as error:
            raise refusal_of(error, place(index)) from None
        left -= count
        if left < 0:
            raise Refusal(
                "request_too_large",
                "inputs have too many tokens to be listed (--max-request-tokens); split them",
                param="inputs",
            )
        pieces.append(piece)
    return json_answer(pieces)


def _listed(model: EmbeddingModel, text: str, specials: bool, most: int) -> tuple[int, orjson.Fragment]:
    """How many tokens a text has, and their list; if there are more than `most`, only the first are in it."""
    pieces = model.pieces(text, specials)
    return len(pieces), fragment(pieces[:most])


async def decode(x: Exchange) -> Answer:
    request = await x.read(DecodeRequest)
    model = x.server.embedder(None)
    flat = all(type(item) is int for item in request.ids)
    rows: list[Any] = [request.ids] if flat else request.ids
    count, most = (
        sum(max(1, len(row)) if isinstance(row, list) else 1 for row in rows),
        x.server.options.max_request_tokens,
    )
    if count > most:
        raise Refusal(
            "request_too_large",
            f"ids has {count} tokens, the limit is {most} (--max-request-tokens); split it",
            param="ids",
        )
    vocabulary = model.manifest.architecture.vocab_size

    def texts() -> list[str]:
        for index, row in enumerate(rows):
            if type(row) is int or not all(0 <= token < vocabulary for token in row):
                where = "ids" if flat else f"ids[{index}]"
                raise Refusal(
                    "invalid_value", f"{where}: expected token ids from 0 to {vocabulary - 1}", param=where
                )
        return [model.tokenizer.join(row, request.skip_special_tokens) for row in rows]

    return await x.answer(await x.in_thread(texts))


async def info(x: Exchange) -> Answer:
    model = x.server.models[0]
    o = x.server.options
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    reranks = isinstance(model, RerankerModel)
    pooling = "+".join(model.manifest.pooling).replace("lasttoken", "last_token")
    facts = {
        "model_id": model.name,
        "model_sha": model.info["bundle"],
        "model_dtype": model.info["variant"].partition("-")[2],
        "served_model_name": model.name,
        "model_type": {"reranker": labels} if reranks else {"embedding": {"pooling": pooling}},
        "max_concurrent_requests": o.max_connections,
        "max_input_length": model.default_length,
        "max_batch_tokens": model.engine.budget.max_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": o.max_inputs,
        "auto_truncate": True,
        "tokenization_workers": 2,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }
    return json_answer(facts)


class Tokenizing(Protocol):
    """What all requests for vectors have in common."""

    truncate: bool | None
    truncation_direction: Direction | None
    prompt_name: str | None


async def _encode(
    x: Exchange, model: EmbeddingModel, inputs: object, request: Tokenizing, *, per_token: bool = False
) -> Encoded[EmbeddingModel]:
    prompt = prompt_of(model, request.prompt_name, "prompt_name")
    texts, place = as_list(inputs, x, named("inputs"), x.server.options.max_inputs, "--max-inputs")
    left = (request.truncation_direction or "").lower() == "left"
    return await encode(
        x,
        model,
        texts,
        place,
        truncate=request.truncate is not False,
        left=left,
        per_token=per_token,
        prompt=prompt,
    )


async def _answer(x: Exchange, out: Encoded[EmbeddingModel], body: object) -> Answer:
    answer = await x.answer(body)
    answer.headers |= counts(x)
    if out.truncated:
        answer.headers["x-truncated"] = str(out.truncated)
    return answer


def counts(x: Exchange) -> dict[str, str]:
    """The headers that TEI's clients read; times are in whole milliseconds."""
    x.stages_in_whole_ms = True
    provider = x.server.models[0].engine.session.provider
    return {
        "x-compute-type": "cpu" if provider == "cpu" else "gpu",
        "x-compute-time": str(round(x.times.get("inference", 0.0) * 1000)),
        "x-compute-characters": str(x.characters),
        "x-compute-tokens": str(x.tokens),
    }


LISTS = {"type": "array", "items": VECTOR}
WEIGHTS = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "object", "required": ["index", "value"]}},
}
STRINGS = {"type": "array", "items": {"type": "string"}}


def routes() -> list[Route]:
    def post(
        path: str,
        handler: Handler,
        request: type[msgspec.Struct],
        summary: str,
        answer: dict[str, Any] | None,
    ) -> Route:
        return Route(
            method="POST",
            path=path,
            handler=handler,
            dialect=DIALECT,
            request=request,
            summary=summary,
            answer=answer,
        )

    return [
        post(
            "/",
            root,
            RootRequest,
            "As /embed or /similarity, for clients that know one address",
            {"type": "array"},
        ),
        post("/embed", embed, EmbedRequest, "Dense vectors", LISTS),
        post("/embed_sparse", embed_sparse, SparseRequest, "Sparse vectors", WEIGHTS),
        post(
            "/embed_all",
            embed_all,
            EmbedAllRequest,
            "A vector per token, special tokens included, not normalised",
            {"type": "array", "items": LISTS},
        ),
        post("/similarity", similarity, SimilarityRequest, "Cosines of one text and others", VECTOR),
        post("/tokenize", tokenize, TokenizeRequest, "Tokens and their places", {"type": "array"}),
        post("/decode", decode, DecodeRequest, "Token ids to text", STRINGS),
        Route(
            method="GET",
            path="/info",
            handler=info,
            dialect=DIALECT,
            needs_ready=False,
            summary="The model and the limits",
        ),
    ]
