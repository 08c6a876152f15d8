"""LangChain's OpenAIEmbeddings. It needs check_embedding_ctx_length=False: otherwise it sends token ids of
another model."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from langchain_openai import OpenAIEmbeddings


def test_documents_and_queries(server: Any, texts: list[str]):
    embeddings = OpenAIEmbeddings(
        model="gte-mini",
        base_url=f"{server.url}/v1",
        api_key=server.key,
        check_embedding_ctx_length=False,
        dimensions=64,
    )
    want = server.dense(texts, dimensions=64)
    np.testing.assert_array_equal(np.array(embeddings.embed_documents(texts), np.float32), want)
    np.testing.assert_array_equal(np.array(embeddings.embed_query(texts[0]), np.float32), want[0])
    np.testing.assert_array_equal(np.array(asyncio.run(embeddings.aembed_documents(texts)), np.float32), want)
