"""huggingface_hub's InferenceClient, which posts every task to the bare address."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError


@pytest.fixture
def client(server: Any) -> InferenceClient:
    return InferenceClient(model=server.url, token=server.key)


def test_feature_extraction(client: InferenceClient, server: Any, texts: list[str]):
    np.testing.assert_array_equal(client.feature_extraction(texts), server.dense(texts))
    np.testing.assert_array_equal(
        client.feature_extraction(texts[0], normalize=True, dimensions=64),
        server.dense(texts[:1], dimensions=64),
    )
    whole = client.feature_extraction(texts[0], normalize=False, truncate=True, truncation_direction="right")
    assert np.linalg.norm(whole) != pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(whole / np.linalg.norm(whole), server.dense(texts[:1]), atol=1e-6)


def test_encoding_format(client: InferenceClient, server: Any, texts: list[str]):
    np.testing.assert_array_equal(
        client.feature_extraction(texts, encoding_format="float"), server.dense(texts)
    )


def test_sentence_similarity(client: InferenceClient, server: Any, texts: list[str]):
    dense = server.dense(texts)
    np.testing.assert_allclose(
        client.sentence_similarity(texts[0], texts[1:]), dense[1:] @ dense[0], atol=1e-6
    )


def test_errors(client: InferenceClient, server: Any):
    with pytest.raises(HfHubHTTPError, match="inputs is an empty string; leave it out") as caught:
        client.feature_extraction("")
    assert caught.value.response.status_code == 400
    with pytest.raises(HfHubHTTPError, match="Bearer KEY"):
        InferenceClient(model=server.url, token="wrong").feature_extraction("x")
