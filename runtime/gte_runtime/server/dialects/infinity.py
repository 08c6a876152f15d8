"""infinity: `/embeddings` and `/models`, at the root. Its `/rerank` is in `rerank`."""

from __future__ import annotations

from ..exchange import Answer, Exchange, json_answer
from ..routes import Route
from .openai import DIALECT, LISTED, EmbeddingsRequest, described, embed

ANY_MODEL = "default/not-specified"
"""What its client sends for the default model."""


async def embeddings(x: Exchange) -> Answer:
    request = await x.read(EmbeddingsRequest)
    if request.model == ANY_MODEL:
        request.model = None
    return await x.answer(await embed(x, request, zero_is_all=True) | {"id": f"infinity-{x.id}"})


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
            request=EmbeddingsRequest,
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
