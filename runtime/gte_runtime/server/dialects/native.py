"""Our own dialect: dense and sparse vectors of a text in one run, exact counts, and an outcome per text."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from ...arrays import Float32
from ...inference.engine import State
from ...tokenization import Tokens
from ..asked import cut_of, prompt_for
from ..encoding import Encoded, as_list, check_dimensions, encode, named
from ..exchange import Answer, Exchange, fragment
from ..fields import done
from ..models import EmbeddingModel
from ..refusals import NATIVE, Refusal, error_body
from ..routes import Route

TEXT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
        {"type": "array", "items": {"type": "integer"}},
    ]
}
Texts = Annotated[
    str | dict[str, Any] | list[Any],
    msgspec.Meta(
        extra_json_schema={
            "anyOf": [*TEXT_SCHEMA["anyOf"], {"type": "array", "minItems": 1, "items": TEXT_SCHEMA}],
        }
    ),
]
"""One text or many. A text is a string, an object that holds one, or a list of token ids, so a flat list of
integers is one text. What is no text is found later, so that it can be answered alone."""
SparseFormat = Literal["object", "list", "ids", "tokens", "both"]


class EncodeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    input: Texts
    """One text or many."""
    model: str | None = None
    dense: Annotated[bool | None, done("true unless it is false")] = None
    sparse: bool | None = None
    tokens: Annotated[bool | None, done("every token's place in the text, and its weight")] = None
    dimensions: Annotated[int | None, done("cut, then normalised")] = None
    encoding_format: Literal["float", "base64"] | None = None
    sparse_format: SparseFormat | None = None
    truncate: Annotated[bool | None, done("true unless it is false")] = None
    max_length: Annotated[int | None, done("tokens, special tokens included")] = None
    prompt: Annotated[str | None, done('a prompt of the model, or "" for none')] = None
    input_type: Annotated[str | None, done("what the text is for; it chooses the prompt")] = None
    on_error: Annotated[Literal["fail", "item"] | None, done("item: an error in the place of a text")] = None


async def encode_route(x: Exchange) -> Answer:
    request = await x.read(EncodeRequest)
    model = x.server.embedder(request.model)
    prompt = prompt_for(x, model, request)
    dense = request.dense is not False
    if (request.sparse or request.tokens) and not model.sparse:
        raise Refusal(
            "invalid_value", f"{model.name} has no sparse head; leave out sparse and tokens", param="sparse"
        )
    if not (dense or request.sparse or request.tokens):
        raise Refusal(
            "invalid_value",
            "dense, sparse and tokens are all false; nothing is left to answer",
            param="dense",
        )
    dim = check_dimensions(x, model, request.dimensions)
    for name, of in (("dimensions", "dense"), ("encoding_format", "dense"), ("sparse_format", "sparse")):
        if getattr(request, name) is not None and not (dense if of == "dense" else request.sparse):
            x.warnings.append(f"{name} has no effect here: {of} is false")
    place = named("input")
    one_by_one = request.on_error == "item"
    most = x.server.options.max_inputs
    texts, place = as_list(request.input, x, place, most, "--max-inputs", one_by_one=one_by_one)
    out = await encode(x, model, texts, place, prompt=prompt, one_by_one=one_by_one, **cut_of(request))
    data = await x.in_thread_if_large(_items, out, request, dim, texts, prompt)
    failed = [
        {"index": i, "error": error_body(refusal, NATIVE.status(refusal), x.id)["error"]}
        for i, refusal in out.errors.items()
    ]
    body = {
        "id": x.id,
        "object": "list",
        "model": model.name,
        "revision": model.info["bundle"],
        "variant": model.info["variant"],
        "data": sorted(data + failed, key=lambda item: item["index"]),
        "usage": usage(out),
    }
    return await x.answer(body | warnings_of(x))


def warnings_of(x: Exchange) -> dict[str, list[str]]:
    """The warnings as a part of the body, because few clients show a header."""
    return {"warnings": list(x.warnings)} if x.warnings else {}


def _items(
    out: Encoded[EmbeddingModel], request: EncodeRequest, dim: int, texts: Sequence[Any], prompt: str
) -> list[dict[str, Any]]:
    rows = vectors(out, dim, request.encoding_format) if request.dense is not False else None
    items = []
    for row, (tokens, state) in enumerate(zip(out.tokens, out.states, strict=True)):
        item: dict[str, Any] = {"index": out.index[row]}
        if rows is not None:
            item["embedding"] = rows[row]
        if request.sparse:
            item["sparse"] = fragment(sparse_as(out.model, tokens, state, request.sparse_format or "object"))
        item["tokens"] = len(tokens.ids)
        item["truncated"] = tokens.truncated
        if request.tokens:
            item["token_weights"] = fragment(
                _token_weights(out.model, prompt, texts[out.index[row]], tokens, state)
            )
        items.append(item)
    return items


def _token_weights(
    model: EmbeddingModel, prompt: str, text: Any, tokens: Tokens, state: State
) -> list[dict[str, Any]]:
    """Every token as run, in order, with its weight and its place in the text.

    Special tokens are not part of a sparse vector, so their weight is 0. A model that expands texts has no
    weights of the text's own tokens: then these are the entries of the expansion.
    """
    if state.token_ids is not None:
        return [
            {"id": t, "text": model.tokenizer.decode(t), "weight": w}
            for t, w in zip(state.token_ids.tolist(), state.token_weights.tolist(), strict=True)
        ]
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
    pieces = model.pieces(prompt + text, room=len(tokens.ids) - before - after)
    return [
        _placed(_own(model, piece), len(prompt)) | {"weight": weight}
        for piece, weight in zip(pieces, weights, strict=True)
    ]


def _own(model: EmbeddingModel, piece: dict[str, Any]) -> dict[str, Any]:
    """The piece with the characters that are its own.

    A token that stands for the beginning of a word alone, `▁`, has none. The tokenizer gives it the first
    character of the next token, which would be claimed twice.
    """
    if piece["special"] or model.tokenizer.decode(piece["id"]):
        return piece
    return piece | {"text": "", "stop": piece["start"]}


def _placed(piece: dict[str, Any], prompt: int) -> dict[str, Any]:
    """The piece with its place counted from the text's beginning; a token of the prompt has none."""
    if piece["start"] is None:
        return piece
    inside = piece["stop"] > prompt or piece["start"] >= prompt
    return piece | {
        "start": max(0, piece["start"] - prompt) if inside else None,
        "stop": piece["stop"] - prompt if inside else None,
    }


def vectors(
    out: Encoded[EmbeddingModel], dim: int, encoding_format: str | None, normalise: bool = True
) -> list[Float32] | list[str]:
    """Dense vectors for JSON: rows of float32, or base64 of their little-endian bytes."""
    rows = out.dense(dim, normalise)
    if encoding_format == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
    return list(np.ascontiguousarray(rows))


def sparse_as(model: EmbeddingModel, tokens: Tokens, state: State, form: SparseFormat) -> Any:
    """A sparse vector for JSON.

    Args:
        model: the text's model.
        tokens: of the text.
        state: of the text.
        form: "object" {"indices", "values"}; "both" the same with "tokens"; "list" [{"index", "value"}];
            "ids" {id: weight}; "tokens" {decoded token: weight}.
    """
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


def usage(out: Encoded[Any]) -> dict[str, int]:
    count = out.token_count
    return {"prompt_tokens": count, "total_tokens": count, "truncated": out.truncated}


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
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
}


def routes() -> list[Route]:
    return [
        Route(
            method="POST",
            path="/v1/encode",
            handler=encode_route,
            dialect=NATIVE,
            request=EncodeRequest,
            answer=ENCODED,
            summary="Dense and sparse vectors in one pass",
        )
    ]
