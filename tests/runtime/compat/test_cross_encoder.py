"""The CrossEncoder's shape: what it gives, and what is refused. Its numbers are in test_compat_parity.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gte_runtime import Reranker
from gte_runtime.compat import CrossEncoder
from gte_runtime.errors import ConfigError, InputError

PAIRS = [
    ("what is the capital of China?", "北京"),
    ("what is the capital of China?", "Quick sort divides and conquers."),
]


@pytest.fixture(scope="module")
def model(reranker_bundle: Path) -> CrossEncoder:
    return CrossEncoder(str(reranker_bundle), trust_remote_code=True)


def test_same_as_our_own_interface(model: CrossEncoder, reranker_bundle: Path):
    """Bit for bit what Reranker gives, with and without the logistic function; by either name of the first
    argument.
    """
    with Reranker.open(reranker_bundle) as own:
        assert np.array_equal(model.predict(PAIRS), own.score(PAIRS, sigmoid=True))
        assert np.array_equal(model.predict(PAIRS, activation_fn=lambda logits: logits), own.score(PAIRS))
    lists: Any = [list(pair) for pair in PAIRS]
    array: Any = np.array(PAIRS)
    assert np.array_equal(model.predict(sentences=PAIRS), model.predict(lists))
    assert np.array_equal(model.predict(array), model.predict(PAIRS))
    with pytest.raises(TypeError, match="older name"):
        model.predict()


def test_one_pair_gives_one_number(model: CrossEncoder):
    pairs: list[Any] = [PAIRS[0], list(PAIRS[0])]
    for pair in pairs:
        assert model.predict(pair) == model.predict(PAIRS)[0]


def test_activation_of_the_constructor(reranker_bundle: Path, model: CrossEncoder):
    """By its present and its older name; a call's own wins."""
    logits = model.predict(PAIRS, activation_fn=lambda x: x)
    for option in ("activation_fn", "default_activation_function"):
        options: dict[str, Any] = {option: lambda x: x * 2}
        other = CrossEncoder(reranker_bundle, **options)
        assert np.array_equal(other.predict(PAIRS), logits * 2)
        assert np.array_equal(other.predict(PAIRS, activation_fn=lambda x: x), logits)


def test_rank(model: CrossEncoder):
    """Best first; of equals the one given first; nothing for no documents; no text unless asked for."""
    documents = ["北京", "Quick sort divides and conquers."] * 20
    ranked = model.rank("what is the capital of China?", documents)
    scores = [row["score"] for row in ranked]
    assert scores == sorted(scores, reverse=True)
    order = [row["corpus_id"] for row in ranked]
    assert sorted(order[:20]) == order[:20]
    assert sorted(order[20:]) == order[20:]
    assert list(ranked[0]) == ["corpus_id", "score"]
    assert isinstance(ranked[0]["score"], float)
    assert model.rank("what?", []) == []
    assert len(model.rank("what?", documents, top_k=1)) == 1


def test_length_of_pairs(reranker_bundle: Path):
    """max_length of the constructor, and the property by both of its names."""
    model = CrossEncoder(reranker_bundle, max_length=16)
    assert model.max_length == model.max_seq_length == 16
    long = [("a " * 50, "b " * 50 + "x"), ("a " * 50, "b " * 50 + "y")]
    assert len(set(model.predict(long).tolist())) == 1
    model.max_length = 8192
    assert len(set(model.predict(long).tolist())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "query: "}, "no prompts"),
        ({"prompt_name": "query"}, "no prompts"),
        ({"pool": {"input": 1}}, "no process pools"),
        ({"device": ["cpu", "cpu"]}, "open on 'cpu'"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"convert_to_tensor": True}, "asks for PyTorch tensors"),
    ],
)
def test_refused_in_a_call(
    model: CrossEncoder, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(ConfigError, match=message):
        model.predict(PAIRS, **options)
    assert model.predict(PAIRS).shape == (2,)


@pytest.mark.parametrize(
    "options", [{"num_labels": 3}, {"revision": "main"}, {"prompts": {"query": "q"}}, {"device": "mps"}]
)
def test_refused_at_construction(reranker_bundle: Path, options: dict[str, Any]):
    with pytest.raises(ConfigError):
        CrossEncoder(reranker_bundle, **options)


def test_an_embedding_model_is_no_reranker(tiny_bundle: Path):
    with pytest.raises(ConfigError, match="embedding model"):
        CrossEncoder(tiny_bundle)


def test_warned_about(reranker_bundle: Path):
    with pytest.warns(UserWarning, match="^model_kwargs: for PyTorch"):
        CrossEncoder(reranker_bundle, automodel_args={"torch_dtype": "auto"}).close()


def test_a_bad_pair_has_an_index(model: CrossEncoder):
    with pytest.raises(InputError) as caught:
        model.predict([PAIRS[0], ("a", 7)])  # type: ignore[list-item]
    assert caught.value.index == 1


TENSORS = """
import sys, numpy as np, torch
from gte_runtime.compat import CrossEncoder
model = CrossEncoder(sys.argv[1])
pairs = [("a", "b"), ("c", "d")]
logits = model.predict(pairs, activation_fn=torch.nn.Identity())
assert isinstance(logits, np.ndarray) and logits.dtype == np.float32
assert np.allclose(model.predict(pairs, activation_fn=torch.sigmoid), model.predict(pairs), atol=1e-6)
assert np.allclose(model.predict(pairs), 1 / (1 + np.exp(-logits)), atol=1e-6)
assert isinstance(model.predict(pairs, convert_to_tensor=True), torch.Tensor)
assert all(isinstance(score, torch.Tensor) for score in model.predict(pairs, convert_to_numpy=False))
print("all fine")
"""


@pytest.mark.slow
def test_torch_functions_and_tensors(reranker_bundle: Path):
    """A program that has torch passes its functions and gets its tensors."""
    pytest.importorskip("torch", reason="torch is not installed; the runtime does not need it")
    done = subprocess.run(
        [sys.executable, "-c", TENSORS, str(reranker_bundle)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "all fine", done.stderr


@pytest.mark.parametrize("given", ["ab", {"query": "a", "document": "b"}, {"a", "b"}])
def test_what_is_no_pair(model: CrossEncoder, given: Any):
    """Two strings make a pair only in a list, a tuple or an array; two letters, two keys or a set do not."""
    assert not model.is_singular_input(given)
    with pytest.raises(InputError, match="expected an iterable of"):
        model.predict(given)
    with pytest.raises(InputError, match=r"documents: expected a list of texts, found (str|dict|set)[;,] "):
        model.rank("a", given)


def test_pairs_of_an_iterator(model: CrossEncoder):
    pairs: Any = iter(PAIRS)
    assert np.array_equal(model.predict(pairs), model.predict(PAIRS))
