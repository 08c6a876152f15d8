"""What programs touch of sentence-transformers' models besides encode and predict."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gte_runtime.compat import BGEM3FlagModel, CrossEncoder, GTEEmbedding, SentenceTransformer
from gte_runtime.compat.surface import ABSENT
from gte_runtime.errors import ConfigError

TEXT = "what is the capital of China? 北京"


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bundle), threads=1)


def test_token_counts(model: SentenceTransformer):
    """As text splitters ask for them: with and without special tokens, cut or not, there and back."""
    tokenizer = model.tokenizer
    ids = tokenizer.encode(TEXT)
    assert ids == [token for token, _ in model.embedder.tokenize(TEXT)]
    inner = tokenizer.encode(TEXT, add_special_tokens=False)
    assert ids == [ids[0], *inner, ids[-1]]
    assert tokenizer.encode(TEXT, max_length=5, truncation="do_not_truncate") == ids
    assert tokenizer.encode(TEXT, truncation=True, max_length=5) == [*ids[:4], ids[-1]]
    assert tokenizer.encode(TEXT, None, False, truncation=True, max_length=5) == inner[:5]
    assert tokenizer.decode(inner) == TEXT
    assert tokenizer.batch_decode([ids], skip_special_tokens=True) == [TEXT]
    assert tokenizer.tokenize(TEXT) == tokenizer.convert_ids_to_tokens(inner)
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(TEXT)) == inner
    assert tokenizer("a")["attention_mask"] == [1] * len(tokenizer.encode("a"))
    assert len(tokenizer) == tokenizer.vocab_size >= len(tokenizer.get_vocab())
    assert tokenizer.num_special_tokens_to_add() == 2
    assert len(tokenizer.encode("a " * 20_000)) > 20_000  # longer than the model's limit, and counted


def test_tokenize_gives_padded_arrays(model: SentenceTransformer):
    found = model.tokenize(["a", TEXT])
    rows = [model.tokenizer.encode(text) for text in ("a", TEXT)]
    assert found["input_ids"].dtype == np.int64
    for row, ids in enumerate(rows):
        kept = found["attention_mask"][row] == 1
        assert found["input_ids"][row][kept].tolist() == ids
        assert set(found["input_ids"][row][~kept].tolist()) <= {model.tokenizer._tokenizer.pad}
    assert found["input_ids"].shape == (2, max(map(len, rows)))


def test_tokenize_pairs(reranker_bundle: Path):
    model = CrossEncoder(str(reranker_bundle), threads=1)
    (ids,) = model.tokenize([("a", "b")])["input_ids"].tolist()
    assert ids == model.tokenizer.encode("a", "b")
    assert ids == model.reranker.tokenizer.encode_pairs([("a", "b")], max_length=99)[0].ids.tolist()
    assert model.num_labels == 1


def test_moves_that_change_nothing(model: SentenceTransformer):
    assert model.to("cpu").cpu().eval().train(False).to(device="cpu") is model
    assert (model.device, model.get_backend(), model.training) == ("cpu", "onnx", False)
    for ask in ("half", "float", "bfloat16"):
        with pytest.warns(UserWarning, match=f"{ask}: for PyTorch, without effect"):
            assert getattr(model, ask)() is model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.evaluate(lambda m, path: (m, path)) == (model, None)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m: m.to("cuda"), "open it with device='cuda'"),
        (lambda m: m.train(), "a bundle is not trained"),
        (lambda m: m.start_multi_process_pool(), "one call uses all processors"),
        (lambda m: m.encode_multi_process(["a"], {}), "call encode"),
        (lambda m: m.tokenizer(["a", "b c"], return_tensors="np"), "pass padding=True"),
        (lambda m: m.tokenizer("a", return_tensors="pt"), "expected None or 'np'"),
    ],
)
def test_what_cannot_be_says_what_to_do(model: SentenceTransformer, ask: Any, words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        ask(model)


def test_absent_attributes_say_why(model: SentenceTransformer):
    """They are AttributeErrors, so that programs can ask with hasattr."""
    for name, why in ABSENT.items():
        assert not hasattr(model, name)
        words = f"SentenceTransformer.{name} is not available: {why}"
        with pytest.raises(AttributeError, match=re.escape(words)):
            getattr(model, name)
    with pytest.raises(AttributeError, match="object has no attribute 'nothing'"):
        model.nothing  # noqa: B018


def test_a_pickle_opens_the_bundle_again(model: SentenceTransformer):
    """As workers of a pool get it; it holds no weights."""
    data = pickle.dumps(model)
    assert len(data) < 2000
    with pickle.loads(data) as copy:
        np.testing.assert_array_equal(copy.encode(TEXT), model.encode(TEXT))
        assert copy.embedder.info["threads"] == 1


@pytest.mark.parametrize("kind", [SentenceTransformer, BGEM3FlagModel, GTEEmbedding, CrossEncoder])
def test_every_class_takes_what_open_takes(
    kind: Any, tiny_bundle: Path, reranker_bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    """Threads, variant and text form; without an argument the environment has a say."""
    bundle = str(reranker_bundle if kind is CrossEncoder else tiny_bundle)
    monkeypatch.setenv("GTE_THREADS", "1")
    for threads in (None, 1):
        model = kind(bundle, variant="cpu-int8", threads=threads, unicode="NFC")
        opened = model.reranker if kind is CrossEncoder else model.embedder
        found = {name: opened.info[name] for name in ("variant", "threads", "unicode")}
        assert found == {"variant": "cpu-int8", "threads": 1, "unicode": "NFC"}
        opened.close()
