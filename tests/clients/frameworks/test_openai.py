"""The openai package, against /v1/embeddings and /v1/models."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import openai
import pytest


@pytest.fixture
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)


@pytest.mark.parametrize(
    "options",
    [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 64}, {"user": "me"}],
)
def test_vectors_and_counts(client: openai.OpenAI, server: Any, texts: list[str], options: dict[str, Any]):
    answer = client.embeddings.create(model="gte-mini", input=texts, **options)
    want = server.dense(texts, dimensions=options.get("dimensions"))
    rows = [item.embedding for item in answer.data]
    if options.get("encoding_format") == "base64":
        import base64

        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    np.testing.assert_array_equal(np.array(rows, np.float32), want)
    assert [item.index for item in answer.data] == [0, 1, 2, 3]
    assert (
        answer.usage.prompt_tokens
        == answer.usage.total_tokens
        == sum(item["tokens"] for item in server.encode(texts))
    )
    assert answer.model == "gte-mini"


def test_models(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["gte-mini", "gte-tiny-reranker"]
    assert client.models.retrieve("gte-mini").owned_by == "gte-runtime"
    with pytest.raises(openai.NotFoundError, match="GET /v1/models"):
        client.models.retrieve("another")


def test_errors_say_what_is_wrong(client: openai.OpenAI, server: Any):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="gte-mini", input=["fine", ""])
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "empty_input",
        "input[1]",
        "invalid_request_error",
    )
    assert "input[1] is an empty string" in str(caught.value)
    with pytest.raises(openai.BadRequestError, match="expected an integer from 1 to 192"):
        client.embeddings.create(model="gte-mini", input="x", dimensions=100_000)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model="gte-mini", input=[[1, 2, 3]])
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="Bearer KEY"):
        stranger.embeddings.create(model="gte-mini", input="x")


def test_many_at_once(server: Any, texts: list[str]):
    """Each of 24 requests in flight gets its own vectors."""
    many = [f"{text} {i}" for i in range(6) for text in texts]

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key=server.key, max_retries=0
        ) as client:
            return await asyncio.gather(
                *(client.embeddings.create(model="gte-mini", input=text) for text in many)
            )

    rows = np.array([answer.data[0].embedding for answer in asyncio.run(ask())], np.float32)
    np.testing.assert_array_equal(rows, server.dense(many))
