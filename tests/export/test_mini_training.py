"""gte-mini's training code, where it can go wrong without a word: the copy into the encoder, counting, resuming."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as f

TRAIN = Path(__file__).parents[2] / "models/gte-mini/train"
TOKENIZER = TRAIN.parent / "tokenizer.json"
TEXTS = [
    ("home", "de", "Open the window", "Öffne das Fenster"),
    ("cldr-terms", "th", "cat", "แมว"),
    ("help", "fr", "Save a file", "Enregistrer"),
]


@pytest.fixture(scope="module")
def code() -> Iterator[SimpleNamespace]:
    """The modules of the folder, which is no package, by their names there."""
    before = set(sys.modules)
    sys.path.insert(0, str(TRAIN))
    try:
        import batches
        import model
        import static
        import vocabulary

        yield SimpleNamespace(batches=batches, model=model, static=static, vocabulary=vocabulary)
    finally:
        sys.path.remove(str(TRAIN))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(TRAIN)):
                del sys.modules[name]


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    """Texts of 1 to 60 pieces."""
    torch.manual_seed(1)
    rows = torch.randint(4, 30_000, (40, 64))
    rows[:, 0] = 0
    for n, row in enumerate(rows):
        end = 2 + n * 3 // 2
        row[end:] = 1
        row[end] = 2
    return rows


def test_the_encoder_starts_as_what_the_token_vectors_had_learnt(code: SimpleNamespace, ids: torch.Tensor) -> None:
    """Every axis is in use here, so none can be spared for CLS and EOS without clearing it first."""
    torch.manual_seed(2)
    pieces = torch.randn(code.model.VOCABULARY, 384)
    static = code.static.Static(pieces, code.static.axes(pieces))
    with torch.no_grad():
        static.score.copy_(0.1 * torch.randn(code.model.WIDTH))
    student = code.model.Student()
    code.static.copy_into(student, static)
    with torch.inference_mode():
        assert f.cosine_similarity(static(ids), student.cls(ids)).min() > 0.9


def test_the_short_way_to_cls_is_the_long_one(code: SimpleNamespace, ids: torch.Tensor) -> None:
    torch.manual_seed(3)
    student = code.model.Student()
    with torch.inference_mode():
        torch.testing.assert_close(student.cls(ids), student(ids)[0], atol=1e-4, rtol=1e-4)


def test_pieces_are_counted_by_their_text(code: SimpleNamespace) -> None:
    pieces = [("▁cat", -2.0), ("s", -3.0), ("▁dog", -4.0)]
    found = code.vocabulary.count(code.vocabulary.whole(TOKENIZER, pieces), {"en": ["cats cat", "dog"]})
    assert {piece: found["en"][piece] for piece, _ in pieces} == {"▁cat": 2, "s": 1, "▁dog": 1}


def test_a_batch_depends_on_its_number_alone(code: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(text) + "\n" for text in TEXTS), encoding="utf-8")
    order = [english for _, _, english, _ in TEXTS]
    given = (tmp_path / "train.jsonl", TOKENIZER, order, torch.eye(3), (["cat"], torch.eye(3)[:1]), tmp_path / "tokens.npz")
    first, again = (code.batches.Batches(*given) for _ in range(2))
    first.pairs(0, 8)
    for a, b in zip(first.pairs(7, 8), again.pairs(7, 8), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.pairs(7, 8).other, first.pairs(8, 8).other)
