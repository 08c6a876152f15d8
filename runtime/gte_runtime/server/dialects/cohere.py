"""Cohere: `/v2/embed`. Its `/v2/rerank` is in `rerank`."""

from __future__ import annotations

import base64
from typing import Any, Literal

import msgspec
import numpy as np

from ...arrays import Float32
from ..body import Ignored
from ..encoding import as_list, check_dimensions, encode, named
from ..exchange import Answer, Exchange
from ..refusals import Dialect, Refusal
from ..routes import Route


def _error_body(refusal: Refusal, status: int, request_id: str) -> dict[str, Any]:
    return {"id": request_id, "message": refusal.message, "detail": refusal.message, "code": refusal.code}


DIALECT = Dialect("cohere", lambda refusal: refusal.meaning.folded, _error_body)

Kind = Literal["float", "base64", "binary", "ubinary"]


class CohereEmbedRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    texts: list[str]
    model: str | None = None
    input_type: Ignored = None
    embedding_types: list[Kind] | None = None
    output_dimension: int | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    max_tokens: int | None = None
    priority: Ignored = None
    user: Ignored = None


async def embed(x: Exchange) -> Answer:
    request = await x.read(CohereEmbedRequest)
    model = x.server.embedder(request.model)
    dim = check_dimensions(x, model, request.output_dimension, name="output_dimension")
    kinds: list[Kind] = list(dict.fromkeys(request.embedding_types or ["float"]))
    if dim % 8 and {"binary", "ubinary"} & set(kinds):
        raise Refusal(
            "invalid_dimensions",
            "output_dimension must be a multiple of 8 for binary vectors",
            param="output_dimension",
        )
    texts, place = as_list(request.texts, x, named("texts"), x.server.options.max_inputs, "--max-inputs")
    x.hold_echo()
    out = await encode(
        x,
        model,
        texts,
        place,
        prompt=model.prompt(None),
        max_length=request.max_tokens,
        truncate=request.truncate != "NONE",
        left=request.truncate == "START",
    )
    dense = out.dense(dim)
    meta = {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": out.token_count},
        "truncated": out.truncated,
    }
    body = {
        "id": x.id,
        "embeddings": {kind: _as(dense, kind) for kind in kinds},
        "texts": texts,
        "meta": meta,
        "response_type": "embeddings_by_type",
    }
    return await x.answer(body)


def _as(dense: Float32, kind: Kind) -> list[Any]:
    """Vectors in one of Cohere's types.

    `ubinary` packs the signs of eight values into a byte, the first in the highest bit; `binary` is the same,
    minus 128.
    """
    if kind == "float":
        return list(np.ascontiguousarray(dense))
    if kind == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in dense]
    bits = np.packbits(dense > 0, axis=1).astype(np.int16)
    return list((bits if kind == "ubinary" else bits - 128).tolist())


def routes() -> list[Route]:
    return [
        Route(
            method="POST",
            path="/v2/embed",
            handler=embed,
            dialect=DIALECT,
            request=CohereEmbedRequest,
            summary="Dense vectors, as Cohere's clients ask for them",
        )
    ]
