"""Classes for LangChain, LlamaIndex and Haystack, with the real frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from gte_runtime import Embedder
from gte_runtime.errors import ConfigError
from gte_runtime.integrations.langchain import GteEmbeddings, GteSparseEmbeddings

TEXTS = ["Paris is the capital of France", "how to implement quick sort in python?", "北京是中国的首都"]
QUERY = "python quick sort"


@pytest.fixture(scope="module")
def gte() -> Iterator[Embedder]:
    with Embedder.open("gte-mini", threads=1) as gte:
        yield gte


class TestLangChainUnit(EmbeddingsUnitTests):
    """LangChain's own tests."""

    @property
    def embeddings_class(self) -> type[GteEmbeddings]:
        return GteEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "gte-mini", "threads": 1}


class TestLangChainIntegration(EmbeddingsIntegrationTests):
    """The same, with texts."""

    @property
    def embeddings_class(self) -> type[GteEmbeddings]:
        return GteEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "gte-mini", "threads": 1}


def test_langchain_gives_what_encode_gives(gte: Embedder):
    dense = gte.encode(TEXTS, sparse=False, dim=64).dense
    model = GteEmbeddings(gte, dim=64)
    np.testing.assert_array_equal(np.array(model.embed_documents(TEXTS), np.float32), dense)
    assert asyncio.run(model.aembed_query(TEXTS[0])) == model.embed_query(TEXTS[0])
    with pytest.raises(ConfigError, match="threads would have no effect"):
        GteEmbeddings(gte, threads=1)


def test_langchain_hybrid_in_qdrant(gte: Embedder):
    """Their store, dense and sparse together."""
    from langchain_qdrant import QdrantVectorStore, RetrievalMode

    store = QdrantVectorStore.from_texts(
        TEXTS,
        embedding=GteEmbeddings(gte),
        sparse_embedding=GteSparseEmbeddings(gte),
        location=":memory:",
        collection_name="texts",
        retrieval_mode=RetrievalMode.HYBRID,
    )
    assert store.similarity_search(QUERY, k=1)[0].page_content == TEXTS[1]
    top = GteSparseEmbeddings(gte, top=2).embed_query(QUERY)
    assert len(top.indices) == 2


def test_llama_index(gte: Embedder):
    """Dense vectors by every way in, and a hybrid Qdrant store."""
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    from gte_runtime.integrations.llama_index import GteEmbedding, sparse_functions

    model = GteEmbedding(gte)
    dense = gte.encode(TEXTS, sparse=False).dense
    np.testing.assert_array_equal(np.array(model.get_text_embedding_batch(TEXTS), np.float32), dense)
    assert asyncio.run(model.aget_query_embedding(TEXTS[0])) == model.get_query_embedding(TEXTS[0])
    documents, queries = sparse_functions(gte)
    indices, values = documents(TEXTS)
    assert [dict(zip(*pair, strict=True)) for pair in zip(indices, values, strict=True)] == [
        vector.as_dict() for vector in gte.encode(TEXTS, dense=False, sparse=True).sparse or ()
    ]
    store = QdrantVectorStore(
        "texts",
        client=QdrantClient(":memory:"),
        enable_hybrid=True,
        sparse_doc_fn=documents,
        sparse_query_fn=queries,
    )
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(
        [TextNode(text=text) for text in TEXTS], storage_context=context, embed_model=model
    )
    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=1, sparse_top_k=3)
    assert retriever.retrieve(QUERY)[0].text == TEXTS[1]


def test_haystack(gte: Embedder):
    """Documents and queries through a pipeline, saved and loaded."""
    from haystack import Document, Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from gte_runtime.integrations.haystack import (
        GteDocumentEmbedder,
        GteSparseDocumentEmbedder,
        GteSparseTextEmbedder,
        GteTextEmbedder,
    )

    documents = GteDocumentEmbedder(threads=1).run([Document(content=text) for text in TEXTS])["documents"]
    dense = gte.encode(TEXTS, sparse=False).dense
    np.testing.assert_array_equal(np.array([each.embedding for each in documents], np.float32), dense)
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(documents)
    pipeline = Pipeline()
    pipeline.add_component("embedder", GteTextEmbedder(threads=1))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["gte_runtime.integrations.haystack"])
    assert again.get_component("embedder").options == {"threads": 1}
    found = pipeline.run({"embedder": {"text": QUERY}})["retriever"]["documents"]
    assert found[0].content == TEXTS[1]
    sparse = GteSparseTextEmbedder(threads=1).run(QUERY)["sparse_embedding"]
    (document,) = GteSparseDocumentEmbedder(top=3, threads=1).run([Document(content=TEXTS[1])])["documents"]
    assert len(document.sparse_embedding.indices) == 3
    assert set(sparse.indices) & set(document.sparse_embedding.indices)
