"""`/` and `/invocations`: one address for everything, in the dialect that the body tells.

Hub clients and text-embeddings-inference post every task to the bare URL, and Amazon SageMaker to
`/invocations`, behind which TEI and vLLM have each their own requests.
"""

from __future__ import annotations

from ..exchange import Answer, Exchange
from ..refusals import Dialect
from ..routes import Handler, Route
from . import cohere, openai, rerank, score, tei

BY_FIELD: tuple[tuple[str, Handler, Dialect], ...] = (
    ("inputs", tei.root, tei.DIALECT),
    ("query", rerank.rerank, tei.DIALECT),
    ("queries", score.score, openai.DIALECT),
    ("text_1", score.score, openai.DIALECT),
    ("data_1", score.score, openai.DIALECT),
    ("input", openai.embeddings, openai.DIALECT),
    ("messages", openai.embeddings, openai.DIALECT),
    ("texts", cohere.embed, cohere.DIALECT),
)
"""The first of these fields that has a value tells what the body is."""

REQUESTS = (
    tei.RootRequest,
    rerank.AnyRerankRequest,
    score.ScoreRequest,
    openai.EmbeddingsRequest,
    cohere.CohereEmbedRequest,
)


async def root(x: Exchange) -> Answer:
    names = await x.names()
    for field, handler, dialect in BY_FIELD:
        if names.get(field):
            x.dialect = dialect
            return await handler(x)
    return await tei.root(x)


def routes() -> list[Route]:
    return [
        Route(
            method="POST",
            path=path,
            handler=root,
            dialect=tei.DIALECT,
            other_dialects=(openai.DIALECT, cohere.DIALECT),
            request=REQUESTS,
            summary="Vectors, ranks or scores, by the fields of the body",
        )
        for path in ("/", "/invocations")
    ]
