"""Published numbers are compared where they exist. The real weights are not here, so a stand-in is published."""

from __future__ import annotations

from pathlib import Path

from gte_runtime import Embedder
from gte_runtime.published import KNOWN, Published, compare, known


def test_real_model_is_known_by_its_hash():
    """gte-multilingual-base's file hash leads to the model card's cosines; any other leads nowhere."""
    (digest,) = KNOWN
    found = known(digest)
    assert found is not None
    assert found.cosines == (0.3016996, 0.7503870, 0.3203084)
    assert known("0" * 64) is None


def test_compare(tiny_bundle: Path):
    """Right values pass, wrong ones are named, both with their difference."""
    texts = ("one", "two", "北京")
    with Embedder.open(tiny_bundle) as gte:
        dense = gte.encode(texts).dense
        first, second = (float(dense[0] @ dense[n]) for n in (1, 2))
        lines = list(compare(Published("a test", texts, (first, second + 0.01), 1e-5), gte))
    assert [good for _, good in lines] == [True, False]
    assert "1.0e-02" in lines[1][0]
