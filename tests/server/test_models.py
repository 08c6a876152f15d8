"""The models of the server by themselves."""

from __future__ import annotations

import pytest

from gte_runtime import Embedder, Reranker
from gte_runtime.server.models import EmbeddingModel, RerankerModel, ServedModel


@pytest.fixture(params=["embedder", "reranker"])
def model(request: pytest.FixtureRequest) -> ServedModel:
    if request.param == "embedder":
        gte: Embedder = request.getfixturevalue("gte")
        return EmbeddingModel("embedder", gte)
    reranker: Reranker = request.getfixturevalue("reranker")
    return RerankerModel("reranker", reranker)


def test_the_cost_of_a_text_grows_with_its_attention(model: ServedModel):
    """The scheduler shares the machine by cost, so a long text must count for more than its tokens."""
    assert model.cost(8192) > 2 * 8192 * model.cost(1)
    assert model.cost(1024) > 1024 * model.cost(1)
    assert model.cost(8192) > 2 * model.cost(4096)


def test_a_model_plans_every_text_once(model: ServedModel):
    groups = model.plan([5, 8192, 5, 700, 700])
    assert sorted(row for group in groups for row in group.tolist()) == [0, 1, 2, 3, 4]
