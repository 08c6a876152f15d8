"""The models of the server by themselves."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from gte_runtime import Embedder, Reranker
from gte_runtime.cli import serve
from gte_runtime.server.models import EmbeddingModel, RerankerModel, ServedModel
from gte_runtime.tokenization import Tokenizer


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


DECOMPOSED = unicodedata.normalize("NFD", "Tất cả mọi người đều được tự do")
COMPOSED = unicodedata.normalize("NFC", DECOMPOSED)


@pytest.fixture
def other_tokenizer() -> bytes:
    """That of the default model. The tiny models' tokenizers compose by themselves."""
    return (Path(__file__).parents[2] / "models" / "gte-mini" / "tokenizer.json").read_bytes()


def test_texts_are_composed_where_the_server_was_started_so(
    gte: Embedder, reranker: Reranker, other_tokenizer: bytes, tiny_bundle: Path
):
    """Texts, pairs and the places of tokens, which are those in the text that was sent."""
    opened = serve._open(str(tiny_bundle), "cpu", None, 1, False, "NFC")
    opened.close()
    assert opened.tokenizer.unicode == opened.info["unicode"] == "NFC"
    model, plain = (
        EmbeddingModel("tiny", Embedder(gte.manifest, Tokenizer(other_tokenizer, unicode=form), gte.engine))
        for form in ("NFC", "exact")
    )
    want, found = (model.tokenize([text], max_length=99, truncate=True)[0] for text in (COMPOSED, DECOMPOSED))
    assert found.ids.tolist() == want.ids.tolist()
    pieces = model.pieces(DECOMPOSED, specials=False)
    assert [piece["id"] for piece in pieces] == [piece["id"] for piece in plain.pieces(COMPOSED, False)]
    assert all(DECOMPOSED[piece["start"] : piece["stop"]] == piece["text"] for piece in pieces)
    assert pieces[-1]["stop"] == len(DECOMPOSED)
    tokenizer = Tokenizer(other_tokenizer, unicode="NFC")
    pairs = RerankerModel("tiny", Reranker(reranker.manifest, tokenizer, reranker.engine))
    for pair in ((DECOMPOSED, "a"), ("a", DECOMPOSED)):
        same = tuple(unicodedata.normalize("NFC", text) for text in pair)
        want, found = (pairs.tokenize([each], max_length=99, truncate=True)[0] for each in (same, pair))
        assert found.ids.tolist() == want.ids.tolist()


def test_the_first_decomposed_text_is_logged_once(
    gte: Embedder, other_tokenizer: bytes, caplog: pytest.LogCaptureFixture
):
    """Without the text, and not as a Python warning."""
    model = EmbeddingModel("tiny", Embedder(gte.manifest, Tokenizer(other_tokenizer), gte.engine))
    for _ in range(3):
        model.tokenize([DECOMPOSED], max_length=99, truncate=True)
    (record,) = [record for record in caplog.records if record.name == "gte_runtime.server"]
    assert record.getMessage() == "other text form"
    assert record.fields["model"] == "tiny"  # type: ignore[attr-defined]
    assert "composed form (NFC)" in record.fields["reason"]  # type: ignore[attr-defined]
    assert DECOMPOSED[:3] not in record.fields["reason"]  # type: ignore[attr-defined]
