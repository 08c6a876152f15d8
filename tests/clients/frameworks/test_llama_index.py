"""LlamaIndex's embeddings for TEI and for whatever speaks OpenAI's dialect."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference


def check(embedding: Any, server: Any, texts: list[str]) -> None:
    want = server.dense(texts)
    np.testing.assert_array_equal(np.array(embedding.get_text_embedding_batch(texts), np.float32), want)
    np.testing.assert_array_equal(np.array(embedding.get_query_embedding(texts[0]), np.float32), want[0])
    np.testing.assert_array_equal(
        np.array(asyncio.run(embedding.aget_query_embedding(texts[1])), np.float32), want[1]
    )


def test_tei(server: Any, texts: list[str]):
    check(
        TextEmbeddingsInference(model_name="gte-mini", base_url=server.url, auth_token=server.key),
        server,
        texts,
    )


def test_openai_like(server: Any, texts: list[str]):
    check(
        OpenAILikeEmbedding(model_name="gte-mini", api_base=f"{server.url}/v1", api_key=server.key),
        server,
        texts,
    )
