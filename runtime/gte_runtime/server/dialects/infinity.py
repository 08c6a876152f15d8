"""infinity: `/embeddings` and `/models`, at the root. Its `/rerank` is in `rerank`."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from ..body import Ignored
from ..exchange import Answer, Exchange, json_answer
from ..routes import Route
from .native import Texts
from .openai import DIALECT, LISTED, described, embed

ANY_MODEL = "default/not-specified"
"""What its client sends for the default model."""


class InfinityEmbeddingsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    input: Texts
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    """0 is all of them."""
    modality: Literal["text"] | None = None
    user: Ignored = None
    input_type: Ignored = None
    priority: Ignored = None
    cache_salt: Ignored = None
    request_id: Ignored = None


async def embeddings(x: Exchange) -> Answer:
    request = await x.read(InfinityEmbeddingsRequest)
    if request.model == ANY_MODEL:
        request.model = None
    answer = await embed(x, request, zero_is_all=True)
    return await x.answer(answer | {"id": f"infinity-{x.id}", "created": int(time.time())})


async def models(x: Exchange) -> Answer:
    scheduler = x.server.scheduler
    stats = {
        "queue_fraction": scheduler.held / scheduler.capacity,
        "queue_absolute": scheduler.waiting,
        "results_pending": scheduler.waiting + sum(len(run.items) for run in scheduler.running),
        "batch_size": x.server.models[0].engine.budget.max_tokens,
    }
    # Its client raises on any other owner.
    facts = {"backend": "onnxruntime", "stats": stats, "owned_by": "infinity"}
    data = [
        described(x, m) | facts | {"capabilities": ["embed" if m.kind == "embedder" else "rerank"]}
        for m in x.server.models
    ]
    return json_answer({"object": "list", "data": data})


def routes() -> list[Route]:
    return [
        Route(
            method="POST",
            path="/embeddings",
            handler=embeddings,
            dialect=DIALECT,
            request=InfinityEmbeddingsRequest,
            answer=LISTED,
            summary="Dense vectors, as infinity's clients ask for them",
        ),
        Route(
            method="GET",
            path="/models",
            handler=models,
            dialect=DIALECT,
            answer=LISTED,
            needs_ready=False,
            summary="Models, load",
        ),
    ]
