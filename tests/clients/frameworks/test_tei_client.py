"""tei-client, which asks for a vector per token too."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from tei_client.clients.http_client import HttpClient


@pytest.fixture
def client(server: Any) -> HttpClient:
    return HttpClient(server.url, headers={"authorization": f"Bearer {server.key}"})


def test_info(client: HttpClient, server: Any):
    assert client.health()
    found = client.info()
    assert (found.server_model_id, found.server_model_metadata.pooling, found.max_input_length) == (
        "gte-mini",
        "cls",
        8192,
    )
    assert client.prompt_names() == []


def test_embed(client: HttpClient, server: Any, texts: list[str]):
    np.testing.assert_array_equal(np.array(client.embed(texts), np.float32), server.dense(texts))
    np.testing.assert_array_equal(
        np.array(asyncio.run(client.async_embed(texts[0])), np.float32), server.dense(texts[:1])
    )


def test_embed_all(client: HttpClient, server: Any, texts: list[str]):
    """As many vectors as tokens, of which the first, normalised, is the text's."""
    found = [np.array(rows, np.float32) for rows in client.embed_all(texts)]
    assert [len(rows) for rows in found] == [item["tokens"] for item in server.encode(texts)]
    firsts = np.array([rows[0] / np.linalg.norm(rows[0]) for rows in found])
    np.testing.assert_allclose(firsts, server.dense(texts), atol=1e-6)
    np.testing.assert_array_equal(
        np.array(asyncio.run(client.async_embed_all(texts[0]))[0], np.float32), found[0]
    )


def test_tokens(client: HttpClient, server: Any, texts: list[str]):
    """There and back; places are those in the text."""
    for text, found in zip(texts, client.tokenize(texts), strict=True):
        assert all(token.special or token.text == text[token.start : token.stop] for token in found.tokens)
        assert client.decode(found.get_ids()) == [text.strip()]
