"""mteb runs our models on a small task.

It searches the Universal Declaration of Human Rights: Spanish paragraphs are the queries, Portuguese ones
the documents.

mteb needs releases of PyTorch and transformers that gte-export cannot use, so it has an environment of its
own: `make mteb-test`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reranking import RERANKER

from gte_runtime import Embedder, Reranker
from gte_runtime.scoring import hybrid

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        importlib.util.find_spec("mteb") is None, reason="mteb has an environment of its own: make mteb-test"
    ),
]

TEXTS = Path(__file__).parents[2] / "benchmarks" / "texts" / "udhr.txt"
FIRST, LAST = 10, 34
"""Paragraphs of the articles; those before belong to the preamble."""


def paragraphs(language: str) -> list[str]:
    blocks = dict(block.split("\n", 1) for block in TEXTS.read_text(encoding="utf-8").split("# ")[1:])
    return blocks[language].strip().split("\n")[FIRST:LAST]


def _data() -> dict[str, Any]:
    from datasets import Dataset

    ids = [str(n) for n in range(LAST - FIRST)]
    return {
        "corpus": Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": paragraphs("por_BR")}),
        "queries": Dataset.from_dict({"id": [f"q{n}" for n in ids], "text": paragraphs("spa")}),
        "relevant_docs": {f"q{n}": {n: 1} for n in ids},
        "top_ranked": None,
    }


@pytest.fixture(scope="module")
def evaluate() -> Callable[[Any], dict[str, float]]:
    import mteb
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Declaration(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Declaration", description="udhr", reference=None, dataset={"path": "none",
            "revision": "none"}, type="Retrieval",
            category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["spa-Latn", "por-Latn"],
            main_score="ndcg_at_10",
            date=None, domains=None, task_subtypes=None, license=None, annotations_creators=None,
            dialect=None, sample_creation=None,
            bibtex_citation=None, is_public=True,
        )  # fmt: skip

        def load_data(self, **_: Any) -> None:
            self.dataset = {"default": {"test": _data()}}
            self.data_loaded = True

    def run(model: Any) -> dict[str, float]:
        result = mteb.evaluate(model, Declaration(), cache=None, show_progress_bar=False)
        scores: dict[str, float] = result.task_results[0].scores["test"][0]
        return scores

    return run


def ndcg(scores: Any) -> float:
    """Of the slow way: the relevant document of query n is document n."""
    ranks = (scores > np.diag(scores)[:, None]).sum(1)
    return float(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean())


def test_dense(evaluate: Callable[[Any], dict[str, float]]):
    """mteb's own search over our vectors gives what a product of matrices gives; far above chance, and dim is
    heard.
    """
    from mteb.models.models_protocols import EncoderProtocol

    from gte_runtime.integrations.mteb import GteEncoder

    model = GteEncoder("gte-mini")
    assert isinstance(model, EncoderProtocol)
    found = evaluate(model)["ndcg_at_10"]
    with Embedder.open("gte-mini") as gte:
        queries, documents = (gte.encode(paragraphs(language)).dense for language in ("spa", "por_BR"))
    assert found == pytest.approx(ndcg(queries @ documents.T), abs=1e-4)
    assert found > 0.5  # chance is 0.2
    assert evaluate(GteEncoder("gte-mini", dim=8))["ndcg_at_10"] < found


@pytest.mark.parametrize(("dense_weight", "sparse_weight"), [(0.0, 1.0), (1.0, 0.3)])
def test_search(evaluate: Callable[[Any], dict[str, float]], dense_weight: float, sparse_weight: float):
    """Sparse and hybrid search: the inverted index gives what scoring every pair gives."""
    from mteb.models.models_protocols import SearchProtocol

    from gte_runtime.integrations.mteb import GteSearch

    model = GteSearch("gte-mini", dense_weight=dense_weight, sparse_weight=sparse_weight)
    assert isinstance(model, SearchProtocol)
    found = evaluate(model)["ndcg_at_10"]
    with Embedder.open("gte-mini") as gte:
        asked, answers = gte.encode(paragraphs("spa")), gte.encode(paragraphs("por_BR"))
    shared: Any = np.array(
        [
            [sum(w * d.as_dict().get(t, 0) for t, w in q.as_dict().items()) for d in answers.sparse]
            for q in asked.sparse
        ]
    )
    cosines: Any = asked.dense @ answers.dense.T
    assert found == pytest.approx(ndcg(hybrid(cosines, shared, dense_weight, sparse_weight)), abs=1e-4)
    assert found > 0.3


def test_search_among_candidates():
    """Reranking tasks name the documents that may be found."""
    from gte_runtime.integrations.mteb import GteSearch

    model = GteSearch("gte-mini")
    model.index(
        [
            {"id": "a", "title": "Dogs", "text": "bark"},
            {"id": "b", "text": "cats"},
            {"id": "c", "text": "dogs bark"},
        ]
    )
    found = model.search([{"id": "q", "text": "dogs"}], top_k=5, top_ranked={"q": ["b", "a"]})
    assert list(found) == ["q"]
    assert set(found["q"]) == {"a", "b"}


def test_reranker(reranker_bundle: Path):
    """Pairs of two lists of batches, in order."""
    from mteb.models.models_protocols import CrossEncoderProtocol

    from gte_runtime.integrations.mteb import GteReranker

    assert RERANKER.name == reranker_bundle.name
    model = GteReranker(str(reranker_bundle))
    assert isinstance(model, CrossEncoderProtocol)
    batches = ([{"text": ["one", "two"]}, {"text": ["three"]}], [{"text": ["a", "b"]}, {"text": ["c"]}])
    with Reranker.open(reranker_bundle) as reranker:
        expected = reranker.score([("one", "a"), ("two", "b"), ("three", "c")])
    np.testing.assert_array_equal(model.predict(*batches), expected)
    assert model.mteb_model_meta.model_type == ["cross-encoder"]
