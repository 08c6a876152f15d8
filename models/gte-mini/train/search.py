"""Title-to-page search within one language: sparse and hybrid scores, and BM25 over the same tokens."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gte_runtime import Embedder

Scores = NDArray[np.float64]
LANGUAGES = ("en", "zh", "de", "fr", "es", "ru", "ja", "ko", "hi", "tr")
LENGTH = 512
"""Tokens of a page that are searched, by every kind of score."""
K1, B = 1.2, 0.75
SPARSE_WEIGHT = 0.3
"""The weight of the sparse score in a hybrid score, as in `gte demo`; chosen on the dev part."""
DEPTH = 10


def ndcg(scores: Scores) -> float:
    """nDCG@10, where document n is the only answer to query n. Ties count as worse ranks."""
    own = np.diag(scores)[:, None]
    rank = (scores >= own).sum(1)
    return float(np.where(rank <= DEPTH, 1 / np.log2(rank + 1), 0).mean())


def bm25(queries: Sequence[Sequence[int]], documents: Sequence[Sequence[int]]) -> Scores:
    mean = np.mean([len(document) for document in documents])
    counts = [Counter(document) for document in documents]
    found = Counter(token for document in counts for token in document)
    out = np.zeros((len(queries), len(documents)))
    for column, (document, count) in enumerate(zip(documents, counts, strict=True)):
        norm = K1 * (1 - B + B * len(document) / mean)
        for line, query in enumerate(queries):
            for token in query:
                if token in count:
                    idf = np.log(1 + (len(documents) - found[token] + 0.5) / (found[token] + 0.5))
                    out[line, column] += idf * count[token] * (K1 + 1) / (count[token] + norm)
    return out


def language_scores(gte: Embedder, pages: list[list[str]]) -> dict[str, float]:
    """nDCG@10 of each kind of score on one language's held-out pages."""
    pages = [[unicodedata.normalize("NFC", text) for text in page] for page in pages]
    queries, documents = (gte.encode([page[side] for page in pages], max_length=LENGTH) for side in (1, 2))
    assert queries.dense is not None
    assert documents.dense is not None
    assert queries.sparse is not None
    assert documents.sparse is not None
    dense = (queries.dense @ documents.dense.T).astype(np.float64)
    sparse = np.array([[query.dot(document) for document in documents.sparse] for query in queries.sparse])

    def tokens(text: str) -> list[int]:
        return [piece for piece, _ in gte.tokenize(text, LENGTH) if piece > 3]

    lexical = bm25([tokens(title) for _, title, _ in pages], [tokens(text) for _, _, text in pages])
    return {
        "BM25": ndcg(lexical),
        "sparse": ndcg(sparse),
        "dense": ndcg(dense),
        "hybrid": ndcg(dense + SPARSE_WEIGHT * sparse),
    }


def ndcg_table(gte: Embedder, held: dict[str, list[list[str]]]) -> list[str]:
    found = {language: language_scores(gte, held[language]) for language in LANGUAGES if held.get(language)}
    names = list(next(iter(found.values())))
    mean = {name: float(np.mean([scores[name] for scores in found.values()])) for name in names}
    return [
        "| title to page, nDCG@10 | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        *(
            f"| {language} | " + " | ".join(f"{scores[name]:.3f}" for name in names) + " |"
            for language, scores in found.items()
        ),
        "| mean | " + " | ".join(f"{mean[name]:.3f}" for name in names) + " |",
    ]
