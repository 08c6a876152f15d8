"""DashScope, Alibaba's cloud API: text embeddings, dense and sparse, and reranking.

A request of its own services has `model`, `input` and `parameters`; an answer has `output`, `usage` and
`request_id`; an error has `code`, `message` and `request_id`. Its compatible modes, at other addresses, take
flat requests as OpenAI does. Clients: the `dashscope` package, and classes of LangChain and LlamaIndex on it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from ...arrays import Float32
from ...inference.engine import State
from ...scoring import sigmoid
from ...tokenization import Tokens
from ..asked import at_least_0, prompt_for
from ..encoding import Encoded, as_list, check_dimensions, encode, named, text_of
from ..exchange import Answer, Exchange, fragment
from ..fields import Value
from ..models import EmbeddingModel, RerankerModel
from ..refusals import Dialect, Refusal, error_body
from ..routes import Handler, Route
from . import openai
from .native import VECTOR, vectors, warnings_of

BASE = "/api/v1/"
"""What clients are given as the address of the API, after the host."""

CODE_OF_STATUS = {
    401: "InvalidApiKey",
    403: "AccessDenied",
    404: "NotFound",
    408: "RequestTimeOut",
    413: "BadRequest.TooLarge",
    429: "Throttling",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}
"""DashScope's codes, as its documentation and `dashscope.v2.errors` list them. All others are
InvalidParameter."""


def _error_body(refusal: Refusal, status: int, request_id: str) -> dict[str, Any]:
    code = CODE_OF_STATUS.get(status, "InvalidParameter")
    if refusal.code == "model_not_found":
        code = "ModelNotFound"
    return {"code": code, "message": refusal.message, "request_id": request_id}


def _compatible_error_body(refusal: Refusal, status: int, request_id: str) -> dict[str, Any]:
    return error_body(refusal, status, request_id) | {"id": request_id, "request_id": request_id}


DIALECT = Dialect("dashscope", lambda refusal: refusal.meaning.folded, _error_body)
COMPATIBLE = Dialect("dashscope-compatible", lambda refusal: refusal.meaning.folded, _compatible_error_body)


class DashScopeTexts(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    texts: str | list[str] | None = None
    url: str | None = None
    """A file of texts, for a task that runs later. Refused."""


class TextParameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    text_type: Literal["query", "document"] | None = None
    dimension: int | None = None
    output_type: Literal["dense", "sparse", "dense&sparse"] | None = None
    instruct: str | None = None
    """An instruction in words. Refused: no model of this family takes one."""


class DashScopeParameters(TextParameters):
    kwargs: TextParameters | None = None
    """LlamaIndex sends its `text_type` here."""


class DashScopeEmbedRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    input: DashScopeTexts
    model: str | None = None
    parameters: DashScopeParameters | None = None


class DashScopeDocuments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    query: str | dict[str, Any]
    documents: list[Any]
    """Strings, or objects that hold a text."""


class RankParameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    top_n: int | None = None
    return_documents: bool | None = None
    instruct: str | None = None


class DashScopeRerankRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    input: DashScopeDocuments
    model: str | None = None
    parameters: RankParameters | None = None


class DashScopeRerankFlatRequest(RankParameters, kw_only=True, forbid_unknown_fields=True):
    """The same, in the compatible mode."""

    instruct: Annotated[Value, openai.NO_INSTRUCTION] = None
    query: str | dict[str, Any]
    documents: list[Any]
    """Strings, or objects that hold a text."""
    model: str | None = None


async def embed(x: Exchange) -> Answer:
    request = await x.read(DashScopeEmbedRequest)
    _no_task(x, request.input.url)
    parameters = _merged(request.parameters or DashScopeParameters())
    _no_instruction(parameters.instruct, "parameters.instruct")
    if request.input.texts is None:
        raise Refusal("missing_field", "the field input.texts is missing", param="input.texts")
    model = x.server.embedder(request.model)
    kinds = (parameters.output_type or "dense").split("&")
    if "sparse" in kinds and not model.sparse:
        message = f"parameters.output_type: {model.name} has no sparse head; ask for dense"
        raise Refusal("invalid_value", message, param="parameters.output_type")
    dim = model.dim
    if "dense" in kinds:
        dim = check_dimensions(x, model, parameters.dimension, name="parameters.dimension")
    elif parameters.dimension is not None:
        x.warnings.append("parameters.dimension changes nothing in sparse vectors")
    most = x.server.options.max_inputs
    texts, place = as_list(request.input.texts, x, named("input.texts"), most, "--max-inputs")
    out = await encode(x, model, texts, place, prompt=prompt_for(x, model, parameters))
    embeddings = await x.in_thread_if_large(_embeddings, out, dim, kinds)
    return await _answer(x, {"embeddings": embeddings}, out)


def _embeddings(out: Encoded[EmbeddingModel], dim: int, kinds: list[str]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = [{"text_index": index} for index in range(len(out.states))]
    if "dense" in kinds:
        for item, row in zip(items, vectors(out, dim, None), strict=True):
            item["embedding"] = row
    if "sparse" in kinds:
        for item, tokens, state in zip(items, out.tokens, out.states, strict=True):
            item["sparse_embedding"] = fragment(_sparse(out.model, tokens, state))
    return items


def _sparse(model: EmbeddingModel, tokens: Tokens, state: State) -> list[dict[str, Any]]:
    vector = model.sparse_vector(tokens, state)
    return [
        {"index": index, "value": value, "token": model.tokenizer.decode(index)}
        for index, value in zip(vector.indices.tolist(), vector.values, strict=True)
    ]


async def rerank(x: Exchange) -> Answer:
    request = await x.read(DashScopeRerankRequest)
    _no_task(x, None)
    parameters = request.parameters or RankParameters()
    model = x.server.reranker(request.model)
    out, results = await _ranked(x, model, request.input, parameters, "input.", "parameters.")
    return await _answer(x, {"results": results}, out)


async def reranks(x: Exchange) -> Answer:
    request = await x.read(DashScopeRerankFlatRequest)
    model = x.server.reranker(request.model)
    out, results = await _ranked(x, model, request, request, "", "")
    body = {"id": x.id, "object": "list", "model": model.name, "results": results, "usage": _usage(out)}
    return await x.answer(body | warnings_of(x))


async def _ranked(
    x: Exchange,
    model: RerankerModel,
    texts: DashScopeDocuments | DashScopeRerankFlatRequest,
    parameters: RankParameters,
    of_texts: str,
    of_parameters: str,
) -> tuple[Encoded[RerankerModel], list[dict[str, Any]]]:
    """The best documents, best first; their scores are from 0 to 1.

    Args:
        x: the request.
        model: the reranker.
        texts: has the query and the documents.
        parameters: of the request.
        of_texts: what comes before their names in errors.
        of_parameters: what comes before the names of the parameters.
    """
    _no_instruction(parameters.instruct, f"{of_parameters}instruct")
    name, most = f"{of_texts}documents", x.server.options.max_documents
    query = text_of(texts.query, f"{of_texts}query")
    documents = [text_of(item, f"{name}[{index}]") for index, item in enumerate(texts.documents)]
    if not query and not x.server.options.allow_empty:
        raise Refusal("empty_input", f"{of_texts}query is an empty string", param=f"{of_texts}query")
    if not documents:
        raise Refusal("empty_input", f"{name} is empty; send at least one", param=name)
    if len(documents) > most:
        message = f"{name} has {len(documents)} texts, the limit is {most} (--max-documents)"
        raise Refusal("too_many_inputs", message, param=name)
    best = at_least_0(f"{of_parameters}top_n", parameters.top_n)
    if parameters.return_documents:
        x.hold_echo()
    out = await encode(x, model, [(query, document) for document in documents], named(name))
    raw = np.array([state.logit for state in out.states], np.float32)
    scores: Float32 = sigmoid(raw)
    order = np.argsort(-raw, kind="stable")[:best].tolist()
    results: list[dict[str, Any]] = [{"index": row, "relevance_score": scores[row]} for row in order]
    if parameters.return_documents:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    return out, results


def _merged(parameters: DashScopeParameters) -> TextParameters:
    """The parameters, with those of `kwargs` where they say nothing themselves."""
    if parameters.kwargs is None:
        return parameters
    chosen = {}
    for name in TextParameters.__struct_fields__:
        own = getattr(parameters, name)
        chosen[name] = getattr(parameters.kwargs, name) if own is None else own
    return TextParameters(**chosen)


def _no_instruction(instruct: str | None, name: str) -> None:
    if instruct:
        raise Refusal("invalid_value", f"{name}: the model takes no instruction; leave it out", param=name)


def _no_task(x: Exchange, url: str | None) -> None:
    """Raises Refusal for a task that would run later; warns of a stream, which the answer is not."""
    if url is not None:
        message = "input.url: files of texts are not fetched here; send their lines in input.texts"
        raise Refusal("invalid_value", message, param="input.url")
    if x.headers.get(b"x-dashscope-async", b"").lower() == b"enable":
        message = "the header x-dashscope-async: there are no tasks here, answers come at once; leave it out"
        raise Refusal("invalid_request", message, param="x-dashscope-async")
    if x.headers.get(b"x-dashscope-sse", b"").lower() == b"enable":
        x.warnings.append("the header x-dashscope-sse was ignored: the answer comes as a whole")


def _usage(out: Encoded[Any]) -> dict[str, int]:
    return {"total_tokens": out.token_count, "truncated": out.truncated}


async def _answer(x: Exchange, output: dict[str, Any], out: Encoded[Any]) -> Answer:
    body = {"output": output, "usage": _usage(out), "request_id": x.id}
    return await x.answer(body | warnings_of(x))


async def not_served(x: Exchange) -> Answer:
    """All other services of the API, in the shape of errors that its clients show."""
    path = x.segment(BASE)
    if "multimodal-embedding" in path:
        message = "images, sound and video are not embedded here; send texts to text-embedding"
    elif path.partition("/")[0] == "tasks":
        message = "there are no tasks here: answers of text-embedding and text-rerank come at once"
    else:
        message = "this service is not served here; there are text-embedding and text-rerank"
    raise Refusal("not_found", message)


def _answer_schema(name: str, item: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["output", "usage", "request_id"],
        "properties": {
            "output": {
                "type": "object",
                "required": [name],
                "properties": {name: {"type": "array", "items": item}},
            },
            "usage": {"type": "object", "required": ["total_tokens"]},
            "request_id": {"type": "string"},
        },
    }


EMBEDDED = _answer_schema(
    "embeddings",
    {
        "type": "object",
        "required": ["text_index"],
        "properties": {
            "text_index": {"type": "integer"},
            "embedding": VECTOR,
            "sparse_embedding": {
                "type": "array",
                "items": {"type": "object", "required": ["index", "value", "token"]},
            },
        },
    },
)
RESULT = {"type": "object", "required": ["index", "relevance_score"]}
RANKED = _answer_schema("results", RESULT)
RANKED_FLAT = {
    "type": "object",
    "required": ["id", "object", "model", "results", "usage"],
    "properties": {"results": {"type": "array", "items": RESULT}},
}


def routes() -> list[Route]:
    def post(
        path: str,
        handler: Handler,
        request: type[msgspec.Struct],
        answer: dict[str, Any],
        summary: str,
        dialect: Dialect = DIALECT,
    ) -> Route:
        return Route(
            method="POST",
            path=path,
            handler=handler,
            dialect=dialect,
            request=request,
            answer=answer,
            summary=summary,
        )

    return [
        post(
            f"{BASE}services/embeddings/text-embedding/text-embedding",
            embed,
            DashScopeEmbedRequest,
            EMBEDDED,
            "Dense and sparse vectors, as DashScope's clients ask for them",
        ),
        post(
            f"{BASE}services/rerank/text-rerank/text-rerank",
            rerank,
            DashScopeRerankRequest,
            RANKED,
            "Documents by how well they answer a query, as DashScope's clients ask for them",
        ),
        post(
            "/compatible-mode/v1/embeddings",
            openai.embeddings,
            openai.EmbeddingsRequest,
            openai.LISTED,
            "As /v1/embeddings, at the address of DashScope's compatible mode",
            COMPATIBLE,
        ),
        Route(
            method="GET",
            path="/compatible-mode/v1/models",
            handler=openai.models,
            dialect=COMPATIBLE,
            answer=openai.LISTED,
            needs_ready=False,
            summary="As /v1/models, at the address of DashScope's compatible mode",
        ),
        post(
            "/compatible-api/v1/reranks",
            reranks,
            DashScopeRerankFlatRequest,
            RANKED_FLAT,
            "Documents by how well they answer a query, in DashScope's compatible mode",
            COMPATIBLE,
        ),
        *(
            Route(
                method=method,
                path=f"{BASE}{{id}}",
                handler=not_served,
                dialect=DIALECT,
                needs_ready=False,
                summary="DashScope's other services, which are not served",
            )
            for method in ("GET", "POST")
        ),
    ]
