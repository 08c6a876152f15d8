"""infinity_client, which is generated from infinity's own description; it wants an httpx of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from infinity_client import AuthenticatedClient
from infinity_client.api.default import embeddings, health, models, rerank
from infinity_client.models import OpenAIEmbeddingInputText, RerankInput


@pytest.fixture
def client(server: Any) -> AuthenticatedClient:
    return AuthenticatedClient(base_url=server.url, token=server.key, raise_on_unexpected_status=True)


def test_embeddings(client: AuthenticatedClient, server: Any, texts: list[str]):
    for name in ("gte-mini", "default/not-specified"):
        answer = embeddings.sync(
            client=client, body=OpenAIEmbeddingInputText.from_dict({"input": texts, "model": name})
        )
        assert answer is not None
        np.testing.assert_array_equal(
            np.array([item.embedding for item in answer.data], np.float32), server.dense(texts)
        )
        assert answer.usage.prompt_tokens == sum(item["tokens"] for item in server.encode(texts))


def test_rerank(client: AuthenticatedClient, server: Any, texts: list[str]):
    answer = rerank.sync(
        client=client, body=RerankInput(query=texts[0], documents=texts[1:], model="gte-tiny-reranker")
    )
    assert answer is not None
    got = [item.index for item in answer.results], [item.relevance_score for item in answer.results]
    assert got == server.ranked(texts[0], texts[1:])


def test_models_and_health(client: AuthenticatedClient):
    listed = models.sync(client=client)
    assert listed is not None
    assert [(model.id, model.capabilities) for model in listed.data] == [
        ("gte-mini", ["embed"]),
        ("gte-tiny-reranker", ["rerank"]),
    ]
    assert health.sync(client=client) is not None
