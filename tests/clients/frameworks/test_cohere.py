"""The cohere package, against /v2/embed, /v1/rerank and /v2/rerank."""

from __future__ import annotations

from typing import Any

import cohere
import numpy as np
import pytest


@pytest.fixture
def client(server: Any) -> cohere.ClientV2:
    return cohere.ClientV2(api_key=server.key, base_url=server.url)


def test_embed(client: cohere.ClientV2, server: Any, texts: list[str]):
    answer = client.embed(
        model="gte-mini",
        texts=texts,
        input_type="search_document",
        embedding_types=["float", "ubinary"],
        output_dimension=64,
    )
    want = server.dense(texts, dimensions=64)
    np.testing.assert_array_equal(np.array(answer.embeddings.float_, np.float32), want)
    np.testing.assert_array_equal(
        np.array(answer.embeddings.ubinary, np.uint8), np.packbits(want > 0, axis=1)
    )
    assert answer.meta.billed_units.input_tokens == sum(item["tokens"] for item in server.encode(texts))


def ranks(answer: Any) -> tuple[list[int], list[float]]:
    return [item.index for item in answer.results], [item.relevance_score for item in answer.results]


def test_rerank(client: cohere.ClientV2, server: Any, texts: list[str]):
    answer = client.rerank(model="gte-tiny-reranker", query=texts[0], documents=texts[1:], top_n=2)
    assert ranks(answer) == server.ranked(texts[0], texts[1:], 2)
    old = cohere.Client(api_key=server.key, base_url=server.url)
    answer = old.rerank(model="gte-tiny-reranker", query=texts[0], documents=texts[1:], return_documents=True)
    assert ranks(answer) == server.ranked(texts[0], texts[1:])
    assert [item.document.text for item in answer.results] == [
        texts[1 + item.index] for item in answer.results
    ]


def test_errors(client: cohere.ClientV2, server: Any):
    with pytest.raises(cohere.BadRequestError, match=r"texts\[1\] is an empty string"):
        client.embed(
            model="gte-mini", texts=["fine", ""], input_type="search_query", embedding_types=["float"]
        )
    with pytest.raises(cohere.UnauthorizedError, match="Bearer KEY"):
        cohere.ClientV2(api_key="wrong", base_url=server.url).rerank(model="x", query="x", documents=["x"])
