"""The engine from outside: any texts in any order, every option, every refusal."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import Around, on_session, poisoned
from fuzzing import examples
from golden import Golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invariance import assert_as_alone, assert_weights_as_alone

from gte_runtime import Embedder
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.errors import (
    ConfigError,
    ForkedProcessError,
    InputError,
    InputTooLongError,
    NonFiniteOutputError,
)
from gte_runtime.inference.batch import Batch
from gte_runtime.inference.plan import Budget
from gte_runtime.inference.session import Outputs
from gte_runtime.proof.oracle import forward

TEXT = st.text(max_size=90)


WORDS = st.lists(
    st.sampled_from(["北京", "capital", "de", "China?", "мир", "a", "मस्ते", "😀", "</s>"]), max_size=120
).map(" ".join)


@pytest.fixture(scope="module")
def gte(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle) as engine:
        yield engine


@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(TEXT | WORDS, max_size=12), seed=st.integers(0, 9), budget=st.sampled_from([None, 40, 300])
)
def test_any_list_is_as_one_by_one(gte: Embedder, texts: list[str], seed: int, budget: int | None):
    """Whatever stands beside a text and whatever fits into a run, its vectors have the same bits."""
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    engine = on_session(gte, gte.engine.session, budget=Budget(max_tokens=budget) if budget else None)
    together = engine.encode([texts[i] for i in order])
    for row, text in enumerate(order):
        alone = gte.encode(texts[text])
        assert_as_alone(gte, together.dense[row], alone.dense[0])
        assert_weights_as_alone(gte, together.sparse[row].as_dict(), alone.sparse[0].as_dict())
        assert together.tokens[row] == alone.tokens[0]


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8"])
def test_token_vectors_are_the_same_bits_in_any_company(mini_bundle: Path, variant: str):
    """Alone, in a list and side by side; row 0 is what dense vectors are cut from, and one row stands for
    each token.
    """
    texts = ["a", "北京是中华人民共和国的首都。", "word " * 300, "Привет, мир!", "word " * 40]
    with Embedder.open(mini_bundle, variant=variant, threads=2) as engine:
        together = engine.token_vectors(texts)
        for row, text in enumerate(texts):
            alone = engine.token_vectors(text)[0]
            assert np.array_equal(together[row], alone)
            assert alone.shape == (len(engine.tokenize(text)), engine.dim)
            assert alone.dtype == np.float32
            assert np.array_equal(alone[0], engine.states(text)[0])
        assert engine.token_vectors([]) == []
        assert len(engine.token_vectors(texts[2], max_length=20)[0]) == 20
        with pytest.raises(InputTooLongError):
            engine.token_vectors(texts[2], max_length=20, truncate=False)


def test_token_vectors_are_near_the_oracle(mini_checkpoint: Path, mini_bundle: Path):
    """Every token of a rounded variant points where the oracle says."""
    text = "The quick brown fox jumps over the lazy dog."
    with Embedder.open(mini_bundle, variant="cpu-int8") as engine, Checkpoint(mini_checkpoint) as checkpoint:
        ids = np.array([token for token, _ in engine.tokenize(text)])
        found, expected = engine.token_vectors(text)[0], forward(checkpoint, ids).hidden
    cosines = (found * expected).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert cosines.min() >= 0.99


def test_a_non_finite_state_names_the_text(gte: Embedder):
    """A state of any token that is no number fails its text, as one of the first token does."""

    def last_token(batch: Batch, outputs: Outputs) -> Outputs:
        outputs.token_states[-1, 3] = np.inf
        return outputs

    engine = on_session(gte, Around(gte.engine.session, last_token))
    with pytest.raises(NonFiniteOutputError) as caught:
        engine.token_vectors(["a b c"])
    assert caught.value.index == 0


def test_the_two_attention_paths_differ(gte: Embedder):
    """The negative control: a text of the length at which the path changes has other bits on the wrong one.

    If this fails, the paths have become one and `flash_from` is no longer needed.
    """
    ids = np.concatenate([[0], np.arange(4, 4 + gte.engine.variant.flash_from - 2), [2]])
    from gte_runtime.inference.batch import make_batch

    right = make_batch(np.array([0]), [ids], gte.engine.variant.flash_from)
    wrong = Batch(right.rows, right.input_ids, right.cu_seqlens, uniform=not right.uniform)
    found, other = gte.engine.session.run(right).cls, gte.engine.session.run(wrong).cls
    assert not np.array_equal(found, other)
    assert np.abs(found - other).max() < 1e-4


def test_padded_variant_is_near_alone(tiny_bundle: Path, golden: Golden):
    """A padded graph makes no promise of bits; batches stay within 1e-6 on unit vectors."""
    with Embedder.open(tiny_bundle, variant="portable-fp32") as engine:
        together = engine.encode(golden.texts).dense
        alone = np.concatenate([engine.encode(text).dense for text in golden.texts])
        assert np.abs(together - alone).max() <= 1e-6
        assert engine.info["batch_invariant"] is False


def test_score_names_the_pair_that_is_not_finite(gte: Embedder, golden: Golden):
    """Texts are run once each, in another order than the pairs."""
    engine = on_session(gte, poisoned(gte.engine.session, golden.ids(2)[1]))
    first, second, poison = golden.texts[:3]
    with pytest.raises(NonFiniteOutputError, match=r"pairs\[2\]") as caught:
        engine.score([(first, second), (second, first), (first, poison), (poison, second)])
    assert caught.value.index == 2


def test_a_model_of_few_positions(gte: Embedder):
    """The default of 8192 tokens means as many as there are, wherever a length is taken; a number that was
    chosen is checked.
    """
    architecture = replace(gte.manifest.architecture, max_positions=16)
    engine = Embedder(replace(gte.manifest, architecture=architecture), gte.tokenizer, gte.engine)
    text = "dog " * 40
    assert engine.encode(text).tokens.tolist() == [16]
    assert len(engine.tokenize(text)) == 16
    with pytest.raises(ConfigError, match="an integer from 3 to 16"):
        engine.tokenize(text, max_length=17)


def test_encode_names_the_row_that_is_not_finite(gte: Embedder, golden: Golden):
    """B-21: NaN never leaves the engine."""
    engine = on_session(gte, poisoned(gte.engine.session, golden.ids(2)[1]))
    with pytest.raises(NonFiniteOutputError, match=r"texts\[2\]") as caught:
        engine.encode(golden.texts[:3])
    assert caught.value.index == 2
    assert np.isfinite(engine.encode(golden.texts[:2]).dense).all()


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (None, "NoneType"),
        (3, "int"),
        (float("nan"), "NaN"),
        (b"x", "bytes"),
        ({"a": 1}, "dict"),
        (["a"], "list"),
        ([0, 5, 2], "token ids"),
    ],
)
def test_not_a_text(gte: Embedder, bad: Any, got: str):
    """B-1, B-22: what is no string is refused by its place and type, and the next call works."""
    with pytest.raises(InputError, match=r"texts\[1\]") as caught:
        gte.encode(["fine", bad, "fine"])
    assert caught.value.index == 1
    assert got in str(caught.value)
    assert len(gte.encode("fine")) == 1


@pytest.mark.parametrize("bad", [None, 3, b"bytes", {"a": 1}])
def test_not_an_iterable_of_texts(gte: Embedder, bad: Any):
    """What is neither a string nor an iterable of strings is refused whole."""
    with pytest.raises(InputError, match="iterable of strings"):
        gte.encode(bad)
    with pytest.raises(InputError, match="iterable"):
        gte.stream(bad)


def test_lone_surrogate_is_named(gte: Embedder):
    """B-2, B-3: half a surrogate pair in text 17 of 32 names 17 and nothing else, and is replaced only on
    request.
    """
    texts = ["text"] * 32
    texts[17] = "ab\ud800c"
    with pytest.raises(InputError, match=r"texts\[17\].*U\+D800 at character 2") as caught:
        gte.encode(texts)
    assert caught.value.index == 17
    assert np.array_equal(gte.encode("ab\ud800c", errors="replace").dense, gte.encode("ab?c").dense)


def test_empty_string_has_a_vector(gte: Embedder):
    """B-4: the empty string is `<s></s>`."""
    out = gte.encode(["", "  \t"])
    assert out.tokens.tolist() == [2, 2]
    assert np.allclose(np.linalg.norm(out.dense, axis=1), 1, atol=1e-6)
    assert len(out.sparse[0]) == 0


def test_empty_list(gte: Embedder):
    """B-15: an empty list gives shape [0, dim]."""
    out = gte.encode([], dim=48)
    assert out.dense.shape == (0, 48)
    assert out.dense.dtype == np.float32
    assert len(out.sparse) == 0
    assert list(gte.stream([])) == []


def test_a_string_is_one_text(gte: Embedder):
    """B-16: a string is one text, not its characters."""
    assert gte.encode("abc").dense.shape == (1, gte.dim)


def test_any_iterable(gte: Embedder):
    """B-17: generators, numpy arrays of strings, tuples."""
    expected = gte.encode(["a", "b"]).dense
    for texts in ((t for t in "ab"), np.array(["a", "b"]), ("a", "b"), {"a": 0, "b": 1}.keys()):
        assert np.array_equal(gte.encode(texts).dense, expected)


@pytest.mark.parametrize("value", [0, 1, 2, -1, 8193, 2**63, "512", True, 3.0, None])
def test_max_length_is_checked(gte: Embedder, value: Any):
    """B-13: anything but an integer from 3 to 8192 is refused."""
    with pytest.raises(ConfigError, match=r"max_length is .* expected an integer from 3 to 8192"):
        gte.encode("text", max_length=value)


@pytest.mark.parametrize("value", [0, -1, 65, 1.5, True, "32", 2**70])
def test_dim_is_checked(gte: Embedder, value: Any):
    """B-14: anything but an integer up to the width is refused, never ignored."""
    with pytest.raises(ConfigError, match=r"dim is .* expected an integer from 1 to 64"):
        gte.encode("text", dim=value)


def test_untrained_dim_warns(gte: Embedder):
    """B-14: shorter than trained is given, with a warning that points at the caller."""
    with pytest.warns(UserWarning, match="below 32") as caught:
        assert gte.encode("text", dim=8).dense.shape == (1, 8)
    assert caught[0].filename == __file__


def test_truncation_is_reported(gte: Embedder):
    """B-11: a long text is cut and says so; the cut text is the beginning of the whole."""
    texts = ["short", "long " * 300]
    out = gte.encode(texts, max_length=30)
    assert out.truncated.tolist() == [False, True]
    assert out.tokens.tolist()[1] == 30
    whole, cut = gte.tokenize(texts[1]), gte.tokenize(texts[1], max_length=30)
    assert cut == [*whole[:29], whole[-1]]


def test_truncation_refused(gte: Embedder):
    """B-11: with truncate=False the error counts the tokens."""
    with pytest.raises(InputTooLongError) as caught:
        gte.encode(["short", "a b c d e f g h"], max_length=6, truncate=False)
    assert (caught.value.index, caught.value.limit) == (1, 6)
    assert caught.value.tokens > 6


def test_literal_special_tokens(tiny_bundle: Path, golden: Golden):
    """B-8: a literal `</s>` becomes an id as in the reference; for untrusted text an option reads it as
    characters.
    """
    text = golden.texts[11]
    with (
        Embedder.open(tiny_bundle) as reference,
        Embedder.open(tiny_bundle, encode_special_tokens=True) as careful,
    ):
        assert [t for t, _ in reference.tokenize(text)] == golden.ids(11).tolist()
        inner = [t for t, _ in careful.tokenize(text)][1:-1]
        assert not set(inner) & {0, 1, 2}


@pytest.mark.parametrize("pairs", [[("q",)], [("q", "d", "x")], ["qd"], [None], [("q", None)], [(1, "d")]])
def test_bad_pairs(gte: Embedder, pairs: list):
    """B-18: a pair that is none is named by its place."""
    with pytest.raises(InputError, match=r"pairs\[1\]") as caught:
        gte.score([("fine", "fine"), *pairs])
    assert caught.value.index == 1


def test_no_pairs(gte: Embedder):
    """No pairs, no scores."""
    assert gte.score([]).shape == (0,)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "1", None, True])
def test_score_weights_are_checked(gte: Embedder, weight: Any):
    """A weight that is no finite number is refused by name."""
    with pytest.raises(ConfigError, match="sparse_weight"):
        gte.score([("q", "d")], 1.0, weight)


def test_repeated_texts_are_run_once(gte: Embedder, golden: Golden):
    """A query that stands in every pair costs one run."""
    counting = Around(gte.engine.session)
    engine = on_session(gte, counting)
    scores = engine.score([("q", text) for text in golden.texts[:4]])
    assert sum(counting.texts_of_runs) == 5
    assert np.array_equal(scores, gte.score([("q", text) for text in golden.texts[:4]]))


def test_parts_on_request(gte: Embedder):
    """Only what is asked for is given."""
    assert gte.encode("a", dense=False).dense is None
    assert gte.encode("a", sparse=False).sparse is None


@pytest.mark.slow
def test_threads_share_one_engine(gte: Embedder, golden: Golden):
    """Eight threads on one engine get what one thread gets."""
    expected = gte.encode(golden.texts).dense
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.extend(gte.encode(golden.texts).dense for _ in range(5)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 40
    assert all(np.array_equal(result, expected) for result in results)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_is_refused_at_once(gte: Embedder):
    """A child of fork() gets an error instead of a hang."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            gte.encode("text")
            os.write(write, b"none")
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must see it
            os.write(write, type(error).__name__.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() == ForkedProcessError.__name__
    os.close(read)
    os.close(write)
