"""LangChain's and LlamaIndex's classes for DashScope, which call the package's functions."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from langchain_community.document_compressors import DashScopeRerank as LangChainRerank
from langchain_community.embeddings import DashScopeEmbeddings
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.dashscope import DashScopeEmbedding
from llama_index.postprocessor.dashscope_rerank import DashScopeRerank as LlamaIndexRerank


@pytest.mark.parametrize("name", ["text-embedding-v1", "text-embedding-v3"])
def test_langchain_embeddings(server: Any, name: str):
    """More texts than one of its batches, which are of 10 or 25."""
    texts = [f"text {i}" for i in range(57)]
    embeddings = DashScopeEmbeddings(model=name)
    want = server.dense(texts)
    np.testing.assert_array_equal(np.array(embeddings.embed_documents(texts), np.float32), want)
    np.testing.assert_array_equal(np.array(embeddings.embed_query(texts[0]), np.float32), want[0])
    np.testing.assert_array_equal(np.array(asyncio.run(embeddings.aembed_documents(texts)), np.float32), want)
    with pytest.raises(ValueError, match=r"input\.texts\[0\] is an empty string"):
        embeddings.embed_query("")


def test_langchain_rerank(server: Any, texts: list[str]):
    found = LangChainRerank(top_n=2).compress_documents([Document(text) for text in texts[1:]], texts[0])
    places, scores = server.ranked(texts[0], texts[1:], 2)
    assert [document.page_content for document in found] == [texts[1 + place] for place in places]
    assert [document.metadata["relevance_score"] for document in found] == scores


def test_llama_index_embeddings(server: Any, texts: list[str]):
    """It sends its text_type one level deeper than the package does."""
    embedding = DashScopeEmbedding(model_name="text-embedding-v3")
    many = [f"{text} {i}" for i in range(10) for text in texts]
    want = server.dense(many)
    np.testing.assert_array_equal(np.array(embedding.get_text_embedding_batch(many), np.float32), want)
    np.testing.assert_array_equal(np.array(embedding.get_query_embedding(many[0]), np.float32), want[0])
    np.testing.assert_array_equal(
        np.array(asyncio.run(embedding.aget_query_embedding(many[1])), np.float32), want[1]
    )


def test_llama_index_rerank(server: Any, texts: list[str]):
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts[1:]]
    found = LlamaIndexRerank(top_n=2).postprocess_nodes(nodes, query_str=texts[0])
    places, scores = server.ranked(texts[0], texts[1:], 2)
    assert [node.node.text for node in found] == [texts[1 + place] for place in places]
    assert [node.score for node in found] == scores
