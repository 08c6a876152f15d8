"""Our own: dense and sparse vectors of a text in one pass, exact counts, and an outcome per text."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from ...inference.engine import State
from ...tokenization import Tokens
from ..encoding import Encoded, as_list, check_dimensions, encode, named, prompt_of
from ..exchange import Answer, Exchange, json_answer
from ..models import EmbeddingModel
from ..refusals import Refusal
from ..routes import Dialect, Route

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_body(refusal: Refusal, status: int, request_id: str) -> dict[str, Any]:
    """The shape OpenAI's clients read, with a request id more."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    facts = {
        "message": refusal.message,
        "type": kind,
        "param": refusal.param,
        "code": refusal.code,
        "request_id": request_id,
    }
    return {"error": facts}


DIALECT = Dialect("native", lambda refusal: refusal.meaning.status, error_body)

Texts = str | list[str | int | list[int]]
SparseFormat = Literal["object", "list", "ids", "tokens", "both"]


class EncodeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    input: Texts
    """One text or many."""
    model: str | None = None
    dense: bool = True
    sparse: bool = False
    tokens: bool = False
    """Say of every token where it stands in the text and what it weighs."""
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None
    sparse_format: SparseFormat | None = None
    truncate: bool | None = None
    max_length: int | None = None
    prompt: str | None = None
    on_error: Literal["fail", "item"] | None = None


async def encode_route(x: Exchange) -> Answer:
    request = await x.read(EncodeRequest)
    model: EmbeddingModel = x.app.model(x, request.model, "embedder")
    prompt = prompt_of(model, request.prompt, "prompt")
    if (request.sparse or request.tokens) and not model.sparse:
        raise Refusal(
            "invalid_value", f"{model.name} has no sparse head; leave out sparse and tokens", param="sparse"
        )
    if not (request.dense or request.sparse or request.tokens):
        raise Refusal(
            "invalid_value",
            "dense, sparse and tokens are all false; nothing is left to answer",
            param="dense",
        )
    dim = check_dimensions(x, model, request.dimensions)
    place = named("input")
    texts, place = as_list(request.input, x, place, x.app.options.max_inputs, "--max-inputs")
    out = await encode(
        x, model, texts, place, prompt=prompt,
        max_length=request.max_length, truncate=request.truncate is not False, one_by_one=request.on_error == "item",
    )  # fmt: skip
    data = await x.aside(_items, out, request, dim, texts, prompt)
    failed = [
        {"index": i, "error": DIALECT.error(r, DIALECT.status(r), x.id)["error"]}
        for i, r in out.errors.items()
    ]
    body = {
        "id": x.id,
        "object": "list",
        "model": model.name,
        "revision": model.info["bundle"],
        "variant": model.info["variant"],
        "data": sorted(data + failed, key=lambda item: item["index"]),
        "usage": usage(out) | {"truncated": out.truncated},
    }
    return json_answer(body)


def _items(
    out: Encoded, request: EncodeRequest, dim: int, texts: Sequence[Any], prompt: str
) -> list[dict[str, Any]]:
    rows = vectors(out, dim, request.encoding_format) if request.dense else None
    items = []
    for row, (tokens, state) in enumerate(zip(out.tokens, out.states, strict=True)):
        item: dict[str, Any] = {"index": out.index[row]}
        if rows is not None:
            item["embedding"] = rows[row]
        if request.sparse:
            item["sparse"] = sparse_as(out.model, tokens, state, request.sparse_format or "object")
        item["tokens"] = len(tokens.ids)
        item["truncated"] = tokens.truncated
        if request.tokens:
            item["token_weights"] = _weighed(out.model, prompt, texts[out.index[row]], tokens, state)
        items.append(item)
    return items


def _weighed(
    model: EmbeddingModel, prompt: str, text: Any, tokens: Tokens, state: State
) -> list[dict[str, Any]]:
    """Every token as run, in order, with its weight and its place in the text. Special tokens are no part of a sparse vector and
    weigh 0."""
    drop = set(model.manifest.tokenizer.drop_ids)
    weights = [
        0.0 if t in drop else w
        for t, w in zip(tokens.ids.tolist(), state.token_weights.tolist(), strict=True)
    ]
    if not isinstance(text, str):
        return [
            {"id": t, "text": model.tokenizer.decode(t), "weight": w}
            for t, w in zip(tokens.ids.tolist(), weights, strict=True)
        ]
    before, after = len(model.tokenizer.prefix), len(model.tokenizer.suffix)
    pieces = model.pieces(prompt + text)
    kept = len(tokens.ids) - before - after
    pieces = pieces[: before + kept] + pieces[len(pieces) - after :]
    return [
        _placed(piece, len(prompt)) | {"weight": weight}
        for piece, weight in zip(pieces, weights, strict=True)
    ]


def _placed(piece: dict[str, Any], prompt: int) -> dict[str, Any]:
    """Places count from the text's beginning. A token of the prompt alone has none, as a special one."""
    if piece["start"] is None:
        return piece
    inside = not prompt or piece["stop"] > prompt
    return piece | {
        "start": max(0, piece["start"] - prompt) if inside else None,
        "stop": piece["stop"] - prompt if inside else None,
    }


def vectors(out: Encoded, dim: int, encoding_format: str | None, normalise: bool = True) -> list[Any]:
    """Dense vectors as JSON holds them: rows of float32, or base64 of their little-endian bytes."""
    rows = out.dense(dim, normalise)
    if encoding_format == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
    return list(np.ascontiguousarray(rows))


def sparse_as(model: EmbeddingModel, tokens: Tokens, state: State, form: SparseFormat) -> Any:
    if form == "tokens":
        return model.by_string(tokens, state)
    vector = model.sparse_vector(tokens, state)
    if form == "ids":
        return {
            str(index): value for index, value in zip(vector.indices.tolist(), vector.values, strict=True)
        }
    if form == "list":
        return [
            {"index": index, "value": value}
            for index, value in zip(vector.indices.tolist(), vector.values, strict=True)
        ]
    both = {"indices": vector.indices, "values": vector.values}
    if form == "both":
        return both | {"tokens": [model.tokenizer.decode(index) for index in vector.indices.tolist()]}
    return both


def usage(out: Encoded) -> dict[str, int]:
    return {"prompt_tokens": out.token_count, "total_tokens": out.token_count}


VECTOR = {"type": "array", "items": {"type": "number"}}
ENCODED = {
    "type": "object",
    "required": ["id", "model", "data", "usage"],
    "properties": {
        "id": {"type": "string"},
        "model": {"type": "string"},
        "revision": {"type": "string"},
        "variant": {"type": "string"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index"],
                "properties": {
                    "index": {"type": "integer"},
                    "embedding": {"anyOf": [VECTOR, {"type": "string"}]},
                    "sparse": {},
                    "tokens": {"type": "integer"},
                    "truncated": {"type": "boolean"},
                    "token_weights": {"type": "array"},
                    "error": {"type": "object"},
                },
            },
        },
        "usage": {"type": "object"},
    },
}


def routes() -> list[Route]:
    return [
        Route(
            method="POST", path="/v1/encode", handler=encode_route, dialect=DIALECT, request=EncodeRequest, answer=ENCODED,
            summary="Dense and sparse vectors in one pass",
        )
    ]  # fmt: skip
