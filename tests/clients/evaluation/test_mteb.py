"""mteb's wrappers for servers, against /v1/embeddings and /v1/rerank. They send no key to /v1/models, so this
server has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mteb.models.openai_wrappers import OpenAIAPIEncodeWrapper, OpenAIAPIRerankWrapper
from torch.utils.data import DataLoader


def batches(texts: list[str]) -> Any:
    return DataLoader([{"text": text} for text in texts], batch_size=3)  # type: ignore[arg-type]


FACTS: dict[str, Any] = {
    "task_metadata": None,
    "hf_split": "test",
    "hf_subset": "default",
    "show_progress_bar": False,
}


def test_encode(keyless: Any, texts: list[str]):
    model = OpenAIAPIEncodeWrapper(
        keyless.url, "gte-mini", use_chat_template=False, modalities=["text"], max_retries=1
    )
    vectors = model.encode(batches(texts), batch_size=2, **FACTS)
    np.testing.assert_array_equal(np.asarray(vectors, np.float32), keyless.dense(texts))


def test_rerank(keyless: Any, texts: list[str]):
    model = OpenAIAPIRerankWrapper(keyless.url, "gte-tiny-reranker", modalities=["text"], max_retries=1)
    scores = model.predict(batches([texts[0]] * 3), batches(texts[1:]), **FACTS)
    order, want = keyless.ranked(texts[0], texts[1:])
    assert np.argsort(-np.asarray(scores)).tolist() == order
    np.testing.assert_allclose(np.sort(scores)[::-1], want, atol=1e-6)


def test_a_key_that_is_not_sent(server: Any):
    """Why: remove this file's first line when it fails."""
    with pytest.raises(ConnectionError, match="401"):
        OpenAIAPIEncodeWrapper(server.url, "gte-mini", api_key=server.key)
