"""Haystack's embedders, sparse embedders and ranker for TEI."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders import huggingface_api as embedders
from haystack_integrations.components.rankers import huggingface_api as rankers


@pytest.fixture
def tei(server: Any) -> dict[str, Any]:
    return {
        "api_type": "text_embeddings_inference",
        "api_params": {"url": server.url},
        "token": Secret.from_token(server.key),
    }


def test_dense(server: Any, tei: dict[str, Any], texts: list[str]):
    want = server.dense(texts)
    embedder = embedders.HuggingFaceAPITextEmbedder(**tei, normalize=True)
    np.testing.assert_array_equal(np.array(embedder.run(text=texts[0])["embedding"], np.float32), want[0])
    embedder = embedders.HuggingFaceAPIDocumentEmbedder(
        **tei, normalize=True, batch_size=3, progress_bar=False
    )
    documents = embedder.run(documents=[Document(content=text) for text in texts])["documents"]
    np.testing.assert_array_equal(np.array([d.embedding for d in documents], np.float32), want)


def test_sparse(server: Any, texts: list[str]):
    want = [item["sparse"] for item in server.encode(texts, dense=False, sparse=True)]
    place = {"api_base_url": server.url, "token": Secret.from_token(server.key)}
    one = embedders.HuggingFaceTEISparseTextEmbedder(**place).run(text=texts[0])["sparse_embedding"]
    assert (one.indices, one.values) == (want[0]["indices"], want[0]["values"])
    embedder = embedders.HuggingFaceTEISparseDocumentEmbedder(**place)
    documents = embedder.run(documents=[Document(content=text) for text in texts])["documents"]
    for document, sparse in zip(documents, want, strict=True):
        assert (document.sparse_embedding.indices, document.sparse_embedding.values) == (
            sparse["indices"],
            sparse["values"],
        )


def test_rank(server: Any, texts: list[str]):
    ranker = rankers.HuggingFaceTEIRanker(url=server.url, token=Secret.from_token(server.key), top_k=2)
    documents = ranker.run(query=texts[0], documents=[Document(content=text) for text in texts[1:]])[
        "documents"
    ]
    order, scores = server.ranked(texts[0], texts[1:], 2)
    assert [document.content for document in documents] == [texts[1 + index] for index in order]
    assert [document.score for document in documents] == pytest.approx(scores)
