"""sentence-transformers' class shape: signatures, numbers, and what is refused."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import Golden

from gte_runtime import Embedder
from gte_runtime.building.build import build
from gte_runtime.compat import SentenceTransformer
from gte_runtime.errors import ConfigError, InputError
from gte_runtime.format.manifest import SIMILARITIES as NAMES
from gte_runtime.scoring import each_with_each, pairwise


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bundle), trust_remote_code=True)


def test_their_first_example(model: SentenceTransformer, golden: Golden):
    """The first lines of their documentation, with our import."""
    sentences = golden.texts[:3]
    embeddings = model.encode(sentences)
    assert embeddings.shape == (3, 64)
    assert embeddings.dtype == np.float32
    assert np.abs(embeddings - golden.arrays["dense"][:3]).max() <= 5e-6
    similarities = model.similarity(embeddings, embeddings)
    assert similarities.shape == (3, 3)
    assert np.diag(similarities) == pytest.approx([1, 1, 1], abs=1e-6)


def test_a_string_gives_one_vector(model: SentenceTransformer, golden: Golden):
    """A string alone comes back as [dim], bit for bit the row that it has in a batch."""
    alone = model.encode(golden.texts[0])
    assert alone.shape == (64,)
    assert np.array_equal(alone, model.encode(golden.texts)[0])


def test_older_name_of_the_first_argument(model: SentenceTransformer, golden: Golden):
    """`sentences=` works as `inputs=` does; both or neither are a TypeError."""
    assert np.array_equal(model.encode(sentences=golden.texts), model.encode(inputs=golden.texts))
    with pytest.raises(TypeError, match="older name"):
        model.encode("a", sentences="a")
    with pytest.raises(TypeError, match="older name"):
        model.encode()


def test_the_cut_is_not_normalised_unless_asked(
    model: SentenceTransformer, tiny_bundle: Path, golden: Golden
):
    """As the original: Normalize is a module of the model and runs before the cut; normalize_embeddings runs
    after it.
    """
    whole = model.encode(golden.texts)
    assert np.array_equal(model.encode(golden.texts, truncate_dim=32), whole[:, :32])
    cut = model.encode(golden.texts, truncate_dim=32, normalize_embeddings=True)
    assert np.abs(cut - golden.arrays["dense_32"]).max() <= 5e-6
    by_constructor = SentenceTransformer(str(tiny_bundle), truncate_dim=32)
    assert np.array_equal(by_constructor.encode(golden.texts), whole[:, :32])
    assert by_constructor.get_embedding_dimension() == by_constructor.get_sentence_embedding_dimension() == 32
    with by_constructor.truncate_embeddings(16), pytest.warns(UserWarning, match="dim=16"):
        assert by_constructor.encode("a").shape == (16,)
    assert by_constructor.encode("a").shape == (32,)


def test_states_of_tokens(tiny_bundle: Path, golden: Golden):
    """A list of [n, dim], or one of them for a string: special tokens too, neither cut nor normalised, with
    the prompt in front.
    """
    model = SentenceTransformer(str(tiny_bundle), truncate_dim=32, prompts={"query": "query: "})
    with Embedder.open(tiny_bundle) as gte:
        want = gte.token_vectors(golden.texts[:4])
        found = model.encode(golden.texts[:4], output_value="token_embeddings", normalize_embeddings=True)
        assert isinstance(found, list)
        assert all(np.array_equal(a, b) for a, b in zip(found, want, strict=True))
        assert np.array_equal(model.encode(golden.texts[0], output_value="token_embeddings"), want[0])
        (asked,) = gte.token_vectors("query: a")
        assert np.array_equal(model.encode_query("a", output_value="token_embeddings"), asked)
        model.max_seq_length = 5
        assert model.encode("a " * 20, output_value="token_embeddings").shape == (5, 64)
    assert model.encode([], output_value="token_embeddings") == []


def test_prompts_are_put_in_front(tiny_bundle: Path):
    """By name, by text, by method; a given text wins, an unknown name is refused with the known ones."""
    model = SentenceTransformer(str(tiny_bundle), prompts={"query": "query: ", "passage": "passage: "})
    plain = model.encode(["query: a", "passage: a", "a"])
    assert np.array_equal(model.encode_query("a"), plain[0])
    assert np.array_equal(model.encode("a", prompt_name="passage"), plain[1])
    assert np.array_equal(model.encode("a", prompt="passage: ", prompt_name="query"), plain[1])
    assert np.array_equal(model.encode("a"), plain[2])
    assert np.array_equal(model.encode_document("a"), plain[2])  # "document" is there, and empty
    assert np.array_equal(model.encode_query(sentences=["a"])[0], plain[0])
    with pytest.raises(ConfigError, match=r"'queries'; this model has 'query', 'document', 'passage'"):
        model.encode("a", prompt_name="queries")
    with pytest.raises(ValueError, match="'nothing'"):
        SentenceTransformer(str(tiny_bundle), default_prompt_name="nothing")
    default = SentenceTransformer(str(tiny_bundle), prompts={"query": "query: "}, default_prompt_name="query")
    assert np.array_equal(default.encode("a"), plain[0])


@pytest.mark.slow
def test_prompts_of_the_model(golden: Golden, tmp_path: Path):
    """A bundle's own prompts are used by name and by method; the constructor's win over them."""
    build(golden.checkpoint, tmp_path / "bundle", graphs=golden.graphs, prompts={"query": "query: "})
    model = SentenceTransformer(tmp_path / "bundle")
    plain = model.encode(["query: a", "a", "other: a"])
    assert np.array_equal(model.encode_query("a"), plain[0])
    assert np.array_equal(model.encode("a", prompt_name="query"), plain[0])
    assert np.array_equal(model.encode("a"), plain[1])
    assert np.array_equal(model.encode_document("a"), plain[1])
    assert np.array_equal(
        SentenceTransformer(tmp_path / "bundle", prompts={"query": "other: "}).encode_query("a"), plain[2]
    )


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precisions(model: SentenceTransformer, golden: Golden, precision: str):
    """Small types hold the values again, within one of 256 steps or by sign."""
    vectors = model.encode(golden.texts)
    if precision.endswith("int8"):
        with pytest.warns(UserWarning, match=r"range of 13 vectors"):
            small = model.encode(golden.texts, precision=precision)
        step = (vectors.max(axis=0) - vectors.min(axis=0)) / 255
        levels = small.astype(np.float32) + (128 if precision == "int8" else 0)
        error = vectors - (vectors.min(axis=0) + levels * step)
        assert (error >= -1e-6).all()
        assert (error <= step * 1.001).all()
        assert levels.min() == 0
        assert levels.max() == 255
    else:
        small = model.encode(golden.texts, precision=precision)
        bits = small if precision == "ubinary" else (small.astype(np.int16) + 128).astype(np.uint8)
        assert np.array_equal(np.unpackbits(bits, axis=1).astype(bool), vectors > 0)
    assert small.dtype == (np.uint8 if precision.startswith("u") else np.int8)


def test_precision_of_one_vector(model: SentenceTransformer):
    """Like the original: one vector has no range to cut into steps, but it has signs."""
    with pytest.raises(ValueError, match="range of many vectors"):
        model.encode("a", precision="int8")
    assert model.encode("a", precision="ubinary").shape == (8,)
    with pytest.raises(ConfigError, match="'int4'; expected one of float32"):
        model.encode("a", precision="int4")


def slow(name: str, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """A similarity, one number at a time."""
    x, y = [float(v) for v in a], [float(v) for v in b]
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    lengths = (sum(p * p for p in x) * sum(q * q for q in y)) ** 0.5
    return {
        "dot": dot,
        "cosine": dot / lengths,
        "manhattan": -sum(abs(p - q) for p, q in zip(x, y, strict=True)),
        "euclidean": -(sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) ** 0.5),
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_similarities(name: str):
    """Each of the four against the obvious sum, as matrix, row by row, and for two single vectors."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 7)).astype(np.float32), rng.normal(size=(5, 7)).astype(np.float32)
    matrix = each_with_each(name, a, b)
    assert matrix.shape == (4, 5)
    assert matrix.dtype == np.float32
    for i in range(4):
        assert matrix[i] == pytest.approx([slow(name, a[i], b[j]) for j in range(5)], rel=1e-5)
    assert pairwise(name, a, b[:4]) == pytest.approx(np.diag(matrix[:, :4]), rel=1e-5)
    assert float(pairwise(name, a[0], b[0])) == pytest.approx(matrix[0, 0], rel=1e-5)
    assert each_with_each(name, a[:0], b).shape == (0, 5)


def test_which_similarity(model: SentenceTransformer, tiny_bundle: Path, golden: Golden):
    """The name can be given, set, or come from their enumeration."""
    other = SentenceTransformer(str(tiny_bundle), similarity_fn_name="euclidean")
    vectors = other.encode(golden.texts[:2])
    assert other.similarity(vectors, vectors)[0, 0] == 0
    assert other.similarity_pairwise(vectors, vectors[::-1])[0] == pytest.approx(
        -np.linalg.norm(vectors[0] - vectors[1])
    )
    other.similarity_fn_name = type("Member", (), {"value": "dot"})()
    assert other.similarity_fn_name == "dot"
    with pytest.raises(ConfigError, match="'maxsim'; expected one of cosine, dot"):
        other.similarity_fn_name = "maxsim"
    assert model.similarity_fn_name == "cosine"


def test_length_at_which_texts_are_cut(tiny_bundle: Path):
    """max_seq_length can be set, or come as the tokenizer's model_max_length; without, it is the model's
    8192.
    """
    model = SentenceTransformer(str(tiny_bundle))
    assert model.max_seq_length == model.get_max_seq_length() == 8192
    long = ["a " * 50 + "x", "a " * 50 + "y"]
    different = model.encode(long)
    assert not np.array_equal(different[0], different[1])
    model.max_seq_length = 16
    assert len(np.unique(model.encode(long), axis=0)) == 1
    given = SentenceTransformer(str(tiny_bundle), processor_kwargs={"model_max_length": 16})
    assert np.array_equal(given.encode(long), model.encode(long))


def test_what_tells_pytorch_how_to_load_is_warned_about(tiny_bundle: Path):
    """Arguments without effect are named once, together; the model works."""
    with pytest.warns(
        UserWarning, match=r"^model_kwargs, processor_kwargs, backend: for PyTorch, without effect here"
    ):
        model = SentenceTransformer(
            str(tiny_bundle),
            model_kwargs={"torch_dtype": "float16"},
            tokenizer_kwargs={"padding_side": "left"},
            backend="onnx",
        )
    assert model.eval().encode(["a"]).shape == (1, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": {"input": 1}}, "no process pools"),
        ({"output_value": None}, "output_value is None; expected 'sentence_embedding' or 'token_embeddings'"),
        ({"output_value": "token_embeddings", "precision": "int8"}, "token_embeddings are given as float32"),
        ({"output_value": "token_embeddings", "convert_to_tensor": True}, "asks for PyTorch tensors"),
        ({"device": ["cpu", "cpu"]}, "open on 'cpu'"),
        ({"device": "mps"}, "'mps'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"truncate_dim": 65}, "dim is 65; expected an integer from 1 to 64"),
        ({"convert_to_tensor": True}, "convert_to_tensor=True asks for PyTorch tensors"),
        ({"convert_to_numpy": False}, "convert_to_numpy=False asks for PyTorch tensors"),
    ],
)
def test_refused_in_a_call(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
):
    """What is asked for and not given is an error that says so, and the model works afterwards."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(ConfigError, match=message):
        model.encode(["a"], **options)
    assert model.encode(["a"]).shape == (1, 64)


@pytest.mark.parametrize("options", [{"revision": "main"}, {"modules": [1]}, {"device": "cuda:1"}])
def test_refused_at_construction(tiny_bundle: Path, options: dict[str, Any]):
    """Arguments that would have given another model."""
    with pytest.raises(ConfigError):
        SentenceTransformer(str(tiny_bundle), **options)


def test_bad_texts_keep_their_index(model: SentenceTransformer):
    """With and without a prompt."""
    for prompt in (None, "query: "):
        with pytest.raises(InputError) as caught:
            model.encode(["a", 7], prompt=prompt)  # type: ignore[list-item]
        assert caught.value.index == 1


def test_nothing_is_an_array_of_no_rows(model: SentenceTransformer):
    assert model.encode([]).shape == (0, 64)
    assert model.encode([], truncate_dim=32).shape == (0, 32)
    assert model.encode([], precision="int8").shape == (0, 64)


def test_iterables(model: SentenceTransformer, golden: Golden):
    """Generators, tuples and numpy arrays of strings."""
    expected = model.encode(golden.texts[:4])
    for given in ((text for text in golden.texts[:4]), tuple(golden.texts[:4]), np.array(golden.texts[:4])):
        assert np.array_equal(model.encode(given), expected)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch):
    """On a terminal, where it is asked for, or where the module's logger wants to know."""
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    model.encode(["a"])
    assert shown.getvalue() == ""
    model.encode(["a"], show_progress_bar=True)
    assert "1/1" in shown.getvalue()
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    logger = logging.getLogger("gte_runtime.compat.sentence_transformers")
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "_cache", {})
    model.encode(["a"])
    assert "1/1" in shown.getvalue()


TENSORS = """
import sys, warnings, numpy as np
from gte_runtime.compat import SentenceTransformer
model = SentenceTransformer(sys.argv[1])
assert "torch" not in sys.modules
import torch
array = model.encode(["a", "b"])
assert isinstance(array, np.ndarray)
tensor = model.encode(["a", "b"], convert_to_tensor=True)
assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
assert np.array_equal(tensor.numpy(), array)
assert all(isinstance(row, torch.Tensor) for row in model.encode(["a", "b"], convert_to_numpy=False))
assert isinstance(model.encode("a", convert_to_tensor=True), torch.Tensor)
states = model.encode(["a", "b c"], output_value="token_embeddings", convert_to_numpy=False)
assert [tuple(each.shape) for each in states] == [(3, 64), (4, 64)] and isinstance(states[0], torch.Tensor)
assert isinstance(model.similarity(tensor, array), torch.Tensor)
assert isinstance(model.similarity([tensor[0], tensor[1]], array), torch.Tensor)
assert isinstance(model.similarity(array, array), np.ndarray)
assert model.similarity(tensor.double(), tensor).shape == (2, 2)
print("all fine")
"""


@pytest.mark.slow
def test_tensors_for_programs_that_use_torch(tiny_bundle: Path):
    """A program that has imported torch gets tensors where it asks for them, of the same numbers."""
    pytest.importorskip("torch", reason="torch is not installed; the runtime does not need it")
    done = subprocess.run(
        [sys.executable, "-c", TENSORS, str(tiny_bundle)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "all fine", done.stderr


def test_same_as_our_own_interface(model: SentenceTransformer, tiny_bundle: Path, golden: Golden):
    """Bit for bit what Embedder gives."""
    with Embedder.open(tiny_bundle) as gte:
        assert np.array_equal(model.encode(golden.texts), gte.encode(golden.texts).dense)


def test_a_batch_size_in_the_place_of_a_prompt(model: SentenceTransformer):
    """Where it stood before prompts existed."""
    with pytest.raises(ConfigError, match=r"prompt_name is 32; .* a batch size goes to batch_size="):
        model.encode(["a"], 32)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"prompt_name is \['query'\]"):
        model.encode(["a"], ["query"])  # type: ignore[arg-type]
