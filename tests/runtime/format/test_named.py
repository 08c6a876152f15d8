"""The models we know by name, and the numbers that were published of them."""

from __future__ import annotations

import numpy as np

from gte_runtime.format.models import models_directory
from gte_runtime.format.named import named_models
from gte_runtime.verify import read_published

KNOWN = named_models(models_directory())


def test_published_numbers_are_whole():
    """What is committed has the shape that the comparison reads, for every model that has any."""
    kinds = {name: [check["kind"] for check in read_published(model)] for name, model in KNOWN.items()}
    assert kinds == {
        "gte-base-en-v1.5": ["states", "query_cosines"],
        "gte-large-en-v1.5": ["query_cosines"],
        "gte-multilingual-base": ["ids", "states", "cosines", "weights", "weights", "query_cosines"],
        "gte-multilingual-mlm-base": [],
        "gte-multilingual-reranker-base": ["ids", "logits", "logits", "logits"],
        "opensearch-neural-sparse-encoding-doc-v3-gte": [],
        "snowflake-arctic-embed-m-v2.0": ["ids", "states"],
        "stella_en_400M_v5": ["query_cosines"],
        "vietnamese-document-embedding": ["query_cosines"],
    }
    (card,) = [
        check for check in read_published(KNOWN["gte-multilingual-base"]) if check["kind"] == "cosines"
    ]
    np.testing.assert_allclose(card["cosines"], [0.3016996, 0.7503870, 0.3203084], atol=1e-7)
    for model in KNOWN.values():
        for check in read_published(model):
            assert check["source"]
            if check["kind"] == "states":
                assert np.array(check["cls"]).shape == (len(check["texts"]), 768)
                assert np.array(check["cls"]).std() > 0.5
