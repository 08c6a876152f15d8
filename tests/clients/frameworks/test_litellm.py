"""LiteLLM, by its adapters for OpenAI, infinity (embeddings), Cohere and vLLM (rerank)."""

from __future__ import annotations

from typing import Any

import litellm
import numpy as np
import pytest

litellm.telemetry = False
litellm.suppress_debug_info = True


@pytest.mark.parametrize("adapter", ["openai", "infinity", "hosted_vllm"])
def test_embedding(server: Any, texts: list[str], adapter: str):
    base = server.url if adapter == "infinity" else f"{server.url}/v1"
    answer = litellm.embedding(model=f"{adapter}/gte-mini", input=texts, api_base=base, api_key=server.key)
    np.testing.assert_array_equal(
        np.array([item["embedding"] for item in answer.data], np.float32), server.dense(texts)
    )
    assert answer.usage.prompt_tokens == sum(item["tokens"] for item in server.encode(texts))


@pytest.mark.parametrize("adapter", ["cohere", "hosted_vllm"])
def test_rerank(server: Any, texts: list[str], adapter: str):
    answer = litellm.rerank(
        model=f"{adapter}/gte-tiny-reranker",
        query=texts[0],
        documents=texts[1:],
        top_n=2,
        api_base=server.url,
        api_key=server.key,
    )
    got = [item["index"] for item in answer.results], [item["relevance_score"] for item in answer.results]
    assert got == server.ranked(texts[0], texts[1:], 2)


def test_errors(server: Any):
    with pytest.raises(litellm.BadRequestError, match="empty string"):
        litellm.embedding(
            model="openai/gte-mini", input=[""], api_base=f"{server.url}/v1", api_key=server.key
        )
    with pytest.raises(litellm.AuthenticationError):
        litellm.embedding(model="openai/gte-mini", input=["x"], api_base=f"{server.url}/v1", api_key="wrong")
