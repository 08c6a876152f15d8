"""text-embeddings-inference (TEI): lists in, lists out, counts in headers.

Its `/rerank` is in `rerank`, and what is at `/` in `root`. `/tokenize` and `/detokenize` take what vLLM's
and llama.cpp's clients send, too.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, Protocol

import msgspec
import orjson

from ...arrays import Float32
from ...errors import InputError
from ...version import __version__
from ..asked import agreed, contradiction, cut_of, prompt_for
from ..encoding import Encoded, Place, as_list, check_dimensions, encode, named, prompt_of, text_of
from ..exchange import Answer, Exchange, fragment, json_answer
from ..fields import Value, done, refused, unused, warned
from ..models import EmbeddingModel, RerankerModel, ServedModel
from ..refusals import Dialect, Refusal, refusal_of
from ..routes import Handler, Route
from .native import VECTOR, Texts, sparse_as, vectors, warnings_of


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


class RootRequest(EmbedRequest):
    """Hub clients post every task to the bare URL: `inputs` may be what /similarity takes."""

    parameters: Annotated[dict[str, Any] | None, done("the fields of /embed; the same as beside it")] = None
    options: Annotated[Value, unused("the model is loaded, and answers are not cached")] = None


class SparseRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    inputs: Texts
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class EmbedAllRequest(SparseRequest):
    # tei-client sends it, and TEI ignores it.
    normalize: Annotated[Value, warned("the vectors of tokens are not normalised", False)] = None


class SimilarityParameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class SimilarityRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    inputs: Sentences
    parameters: SimilarityParameters | None = None


NO_CHAT = refused("this model has no chat template; send a text")


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One of `inputs`, as TEI's clients send it, `prompt`, as vLLM's, or `content`, as llama.cpp's."""

    inputs: str | list[Any] | None = None
    prompt_name: str | None = None
    add_special_tokens: Annotated[bool | None, done("true unless it is false")] = None

    model: str | None = None
    prompt: str | None = None
    return_token_strs: bool | None = None
    messages: Annotated[Value, NO_CHAT] = None
    chat_template: Annotated[Value, NO_CHAT] = None
    chat_template_kwargs: Annotated[Value, NO_CHAT] = None
    add_generation_prompt: Annotated[Value, refused(NO_CHAT.why, False)] = None
    continue_final_message: Annotated[Value, refused(NO_CHAT.why, False)] = None
    media_io_kwargs: Annotated[Value, refused("this model reads text")] = None
    mm_processor_kwargs: Annotated[Value, refused("this model reads text")] = None
    tools: Annotated[Value, NO_CHAT] = None

    content: str | None = None
    add_special: Annotated[
        bool | None, done("as add_special_tokens; false beside content unless it is true")
    ] = None
    with_pieces: Annotated[bool | None, done("as return_token_strs")] = None
    parse_special: Annotated[Value, refused("the server's --encode-special-tokens says so for all", True)] = (
        None
    )


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    tokens: list[int]
    model: str | None = None


class DecodeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    ids: list[int | list[int]]
    skip_special_tokens: Annotated[bool | None, done("true unless it is false")] = None


async def root(x: Exchange) -> Answer:
    request = await x.read(RootRequest)
    _take_parameters(x, request)
    if isinstance(request.inputs, dict) and "source_sentence" in request.inputs:
        try:
            sentences = msgspec.convert(request.inputs, Sentences)
        except msgspec.ValidationError as error:
            raise Refusal("invalid_type", f"inputs: {error}".replace("`", ""), param="inputs") from None
        for name in ("normalize", "dimensions"):
            if getattr(request, name) not in (None, True):
                raise Refusal(
                    "unsupported_field", f"{name} is not supported here: the answer is cosines", param=name
                )
        return await _similarity(x, sentences, request)
    return await _embed(x, request)


def _take_parameters(x: Exchange, request: RootRequest) -> None:
    """Put what is in `parameters` beside it. Raises Refusal."""
    given = request.parameters or {}
    known = [name for name in EmbedRequest.__struct_fields__ if name != "inputs"]
    for name in given.keys() - set(known):
        shown = name if name.isprintable() and len(name) <= 60 else "of a strange name"
        if x.server.options.strict:
            raise Refusal(
                "unknown_field", f"the field parameters.{shown} is not known here", param="parameters"
            )
        x.warnings.append(f"the field parameters.{shown} is not known here and was ignored")
    try:
        read = msgspec.convert(
            {name: given[name] for name in known if name in given} | {"inputs": ""},
            EmbedRequest,
            strict=False,
        )
    except msgspec.ValidationError as error:
        raise Refusal("invalid_type", f"parameters: {error}".replace("`", ""), param="parameters") from None
    for name in known:
        value = getattr(read, name)
        if value is not None and getattr(request, name) not in (None, value):
            raise contradiction(name, f"parameters.{name}")
        if value is not None:
            setattr(request, name, value)


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


async def _similarity(x: Exchange, inputs: Sentences, parameters: Tokenizing) -> Answer:
    model = x.server.embedder(None)
    if not inputs.sentences:
        raise Refusal("empty_input", "inputs.sentences is empty; send at least one", param="inputs.sentences")
    texts = [inputs.source_sentence, *inputs.sentences]
    out = await _encode(x, model, texts, parameters, _place_of_sentence)
    dense = out.dense(check_dimensions(x, model, None))
    return await _answer(x, out, list((dense[1:] @ dense[0]).tolist()))


def _place_of_sentence(index: int | None) -> str:
    if index is None:
        return "inputs.sentences"
    return f"inputs.sentences[{index - 1}]" if index else "inputs.source_sentence"


async def tokenize(x: Exchange) -> Answer:
    request = await x.read(TokenizeRequest)
    given = [name for name in ("inputs", "prompt", "content") if getattr(request, name) is not None]
    if len(given) != 1:
        message = "send inputs (as to TEI), prompt (as to vLLM) or content (as to llama.cpp)"
        raise Refusal("missing_field", message, param="inputs")
    model = x.server.tokenizing_model(request.model)
    if request.inputs is not None:
        return await _tokenize_for_tei(x, model, request)
    text = request.prompt if request.prompt is not None else request.content or ""
    prompt = "" if request.prompt_name is None else _prompt(model, request)
    default = given[0] == "prompt"
    specials = _specials(request, default)
    with_strings = agreed(request, "return_token_strs", "with_pieces")[1]
    try:
        pieces = await listed(x, model, prompt + text, specials)
    except InputError as error:
        raise refusal_of(error, given[0]) from None
    ids = [piece["id"] for piece in pieces]
    if given[0] == "content":
        with_pieces = [{"id": piece["id"], "piece": piece["text"]} for piece in pieces]
        return await x.answer({"tokens": with_pieces if with_strings else ids} | warnings_of(x))
    strings = [piece["text"] for piece in pieces] if with_strings else None
    body = {"count": len(ids), "max_model_len": model.max_length, "tokens": ids, "token_strs": strings}
    return await x.answer(body | warnings_of(x))


def _prompt(model: ServedModel, request: TokenizeRequest) -> str:
    return prompt_of(model, request.prompt_name, "prompt_name") if isinstance(model, EmbeddingModel) else ""


def _specials(request: TokenizeRequest, default: bool) -> bool:
    """Whether to list special tokens, too. Raises Refusal for a contradiction."""
    asked = agreed(request, "add_special_tokens", "add_special")[1]
    return default if asked is None else bool(asked)


async def _tokenize_for_tei(x: Exchange, model: ServedModel, request: TokenizeRequest) -> Answer:
    prompt = _prompt(model, request)
    texts, place = as_list(request.inputs, x, named("inputs"), x.server.options.max_inputs, "--max-inputs")
    texts = [text_of(text, place(index)) for index, text in enumerate(texts)]
    if sum(map(len, texts)) > x.server.options.max_request_tokens:
        raise Refusal(
            "request_too_large",
            "inputs are too long to be listed token by token (--max-request-tokens)",
            param="inputs",
        )
    pieces = []
    left = x.server.options.max_request_tokens
    specials = _specials(request, True)
    for index, text in enumerate(texts):
        try:
            count, piece = await x.in_thread(_listed, model, prompt + text, specials, max(1, left))
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


async def listed(x: Exchange, model: ServedModel, text: str, specials: bool) -> list[dict[str, Any]]:
    """The tokens of a text. Raises InputError, also for a text that is too long to be listed."""
    return await x.in_thread(model.pieces, text, specials)


def _listed(model: ServedModel, text: str, specials: bool, most: int) -> tuple[int, orjson.Fragment]:
    """How many tokens a text has, and their list; if there are more than `most`, only the first are in it."""
    pieces = model.pieces(text, specials)
    return len(pieces), fragment(pieces[:most])


async def detokenize(x: Exchange) -> Answer:
    """For vLLM's clients `prompt`, for llama.cpp's `content`."""
    request = await x.read(DetokenizeRequest)
    model = x.server.tokenizing_model(request.model)
    check_ids(x, model, [request.tokens], "tokens", flat=True)
    text = await x.in_thread(model.tokenizer.join, request.tokens, False)
    return await x.answer({"prompt": text, "content": text} | warnings_of(x))


async def decode(x: Exchange) -> Answer:
    request = await x.read(DecodeRequest)
    model = x.server.tokenizing_model(None)
    flat = all(type(item) is int for item in request.ids)
    rows: list[Any] = [request.ids] if flat else request.ids
    check_ids(x, model, rows, "ids", flat)
    skip = request.skip_special_tokens is not False
    return await x.answer(await x.in_thread(lambda: [model.tokenizer.join(row, skip) for row in rows]))


def check_ids(x: Exchange, model: ServedModel, rows: list[Any], field: str, flat: bool) -> None:
    """Raises Refusal for too many token ids, or for what is none of the model's.

    Args:
        x: the request.
        model: whose ids they are.
        rows: lists of ids.
        field: their name in the request.
        flat: the field holds the only list.
    """
    count = sum(max(1, len(row)) if isinstance(row, list) else 1 for row in rows)
    if count > (most := x.server.options.max_request_tokens):
        raise Refusal(
            "request_too_large",
            f"{field} has {count} tokens, the limit is {most} (--max-request-tokens); split it",
            param=field,
        )
    vocabulary = model.manifest.architecture.vocab_size
    for index, row in enumerate(rows):
        if type(row) is int or not all(0 <= token < vocabulary for token in row):
            where = field if flat else f"{field}[{index}]"
            raise Refusal(
                "invalid_value", f"{where}: expected token ids from 0 to {vocabulary - 1}", param=where
            )


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


INPUTS = named("inputs")


class Tokenizing(Protocol):
    """What all requests for vectors have in common."""

    truncate: bool | None
    truncation_direction: Direction | None
    prompt_name: str | None


async def _encode(
    x: Exchange,
    model: EmbeddingModel,
    inputs: object,
    request: Tokenizing,
    place: Place = INPUTS,
    *,
    per_token: bool = False,
) -> Encoded[EmbeddingModel]:
    prompt = prompt_for(x, model, request)
    texts, place = as_list(inputs, x, place, x.server.options.max_inputs, "--max-inputs")
    return await encode(x, model, texts, place, per_token=per_token, prompt=prompt, **cut_of(request))


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
        post("/tokenize", tokenize, TokenizeRequest, "Tokens and their places", None),
        post("/detokenize", detokenize, DetokenizeRequest, "Token ids to text", {"type": "object"}),
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
