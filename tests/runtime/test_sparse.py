"""Sparse vectors against the obvious dictionary, and the shapes that stores take."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime.errors import ConfigError
from gte_runtime.sparse import SparseVector, SparseVectors, by_string, sparse_vector

DROP = (0, 1, 2, 3)
tokens = st.lists(st.tuples(st.integers(0, 12), st.floats(0, 8, width=32)), max_size=40)


def obvious(pairs: list[tuple[int, float]]) -> dict[int, float]:
    result: dict[int, float] = {}
    for token, weight in pairs:
        if token not in DROP and weight > 0:
            result[token] = max(weight, result.get(token, 0.0))
    return dict(sorted(result.items()))


def vector_of(pairs: list[tuple[int, float]]) -> SparseVector:
    ids, weights = np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.float32)
    return sparse_vector(ids, weights, set(DROP))  # any iterable; np.isin would not look into a set


@given(tokens)
def test_largest_weight_per_token(pairs: list[tuple[int, float]]):
    """Repeated tokens keep their largest weight, special ones and zeros are dropped, indices ascend."""
    vector = vector_of(pairs)
    assert vector.as_dict() == obvious(pairs)
    assert vector.indices.dtype == np.int32
    assert vector.values.dtype == np.float32


@given(tokens, tokens)
def test_dot(left: list[tuple[int, float]], right: list[tuple[int, float]]):
    """The product of two vectors is the sum over shared tokens."""
    a, b = obvious(left), obvious(right)
    expected = sum(a[token] * b[token] for token in a.keys() & b.keys())
    assert np.isclose(vector_of(left).dot(vector_of(right)), expected)


@given(st.lists(tokens, max_size=5))
def test_csr_is_scipys(texts: list[list[tuple[int, float]]]):
    """`to_csr` goes into scipy unchanged and holds every row."""
    vectors = SparseVectors([vector_of(pairs) for pairs in texts], width=13)
    data, indices, indptr, shape = vectors.to_csr()
    if not texts:
        assert shape == (0, 13)
        return
    dense = scipy.sparse.csr_matrix((data, indices, indptr), shape=shape).toarray()
    for row, pairs in enumerate(texts):
        assert {int(i): float(dense[row, i]) for i in np.flatnonzero(dense[row])} == obvious(pairs)


def test_object_form():
    """The form of Qdrant and JSON: two plain lists."""
    assert vector_of([(9, 1.5), (5, 2.0)]).as_object() == {"indices": [5, 9], "values": [2.0, 1.5]}


def test_slices_are_vectors_too():
    """A slice keeps the width, so it can be written as rows of the same matrix."""
    vectors = SparseVectors([vector_of([(5, 1.0)]), vector_of([(6, 1.0)])], width=13)
    assert vectors[1:].to_csr().shape == (1, 13)
    assert vectors[-1].as_dict() == {6: 1.0}


def test_strings_merge_pieces():
    """A piece with and without its leading space shares a key; order is that of first occurrence."""
    names = {5: "is", 6: "is", 7: ""}
    found = by_string(
        np.array([6, 7, 5, 0]), np.array([1.0, 0.5, 2.0, 9.0], np.float32), DROP, names.__getitem__
    )
    assert list(found.items()) == [("is", 2.0), ("", 0.5)]


@given(tokens)
def test_by_string_is_the_obvious_dictionary(pairs: list[tuple[int, float]]):
    """Against the slow way, with two ids to each string: same keys in the same order, same weights."""
    expected: dict[str, float] = {}
    for token, weight in pairs:
        if token in DROP or weight <= 0:
            continue
        expected[str(token // 2)] = max(weight, expected.get(str(token // 2), 0.0))
    ids, weights = np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.float32)
    found = by_string(ids, weights, iter(DROP), lambda token: str(token // 2))
    assert list(found.items()) == list(expected.items())


def test_a_weight_of_zero_is_no_token():
    """ReLU gives zeros: they are in neither form; a token's place is that of its first positive weight."""
    ids, weights = np.array([5, 6, 5]), np.array([0.0, 1.0, 2.0], np.float32)
    assert list(by_string(ids, weights, (), str).items()) == [("6", 1.0), ("5", 2.0)]
    assert sparse_vector(ids[:1], weights[:1], ()).as_dict() == by_string(ids[:1], weights[:1], (), str) == {}


def test_as_many_weights_as_ids():
    """Arrays of different lengths are a bug of the caller, never cut to the shorter one."""
    with pytest.raises(ValueError, match=r"zip\(\)"):
        by_string(np.array([5, 6]), np.ones(1, np.float32), (), str)
    with pytest.raises(ValueError, match=r"zip\(\)"):
        SparseVector(np.array([5, 6], np.int32), np.ones(1, np.float32)).as_dict()


def test_dot_is_summed_in_float64():
    """16777217 has no float32: a sum in float32 would lose the 1. The result is Python's float."""
    left = SparseVector(np.array([5, 6], np.int32), np.array([2.0**24, 1.0], np.float32))
    right = SparseVector(np.array([5, 6, 7], np.int32), np.array([1.0, 1.0, 9.0], np.float32))
    assert left.dot(right) == right.dot(left) == 2.0**24 + 1
    assert type(left.dot(right)) is float
    assert left.dot(vector_of([])) == 0.0


def test_csr_of_vectors_without_tokens():
    """No texts, or texts without weights: empty arrays of the promised types, and a row for each text."""
    for count in (0, 2):
        data, indices, indptr, shape = SparseVectors([vector_of([])] * count, width=13).to_csr()
        assert (data.dtype, indices.dtype, indptr.dtype) == (np.float32, np.int32, np.int64)
        assert (len(data), len(indices), indptr.tolist(), shape) == (0, 0, [0] * (count + 1), (count, 13))


def test_vectors_are_a_sequence():
    """Length, iteration and indices, each as of the list they were made from."""
    parts = [vector_of([(5, 1.0), (6, 2.0)]), vector_of([(7, 1.0)])]
    vectors = SparseVectors(iter(parts), width=13)
    assert list(vectors) == parts
    assert [len(vectors), *map(len, vectors)] == [2, 2, 1]
    assert list(vectors[:1]) == parts[:1]


@given(tokens, st.integers(1, 12))
def test_the_largest_weights(pairs: list[tuple[int, float]], count: int):
    """Against sorting; of equal weights those of the lower ids, and ids still ascend."""
    vector = vector_of(pairs)
    best = sorted(vector.as_dict().items(), key=lambda item: (-item[1], item[0]))[:count]
    assert vector.top(count).as_dict() == dict(sorted(best))
    assert SparseVectors([vector], 13).top(count)[0].as_dict() == dict(sorted(best))


def test_pgvector():
    """Ids are counted from 1, and the limits of columns and indexes hold."""
    vector = SparseVector(np.array([0, 41], np.int32), np.array([0.5, 0.1], np.float32))
    assert vector.as_pgvector(100) == "{1:0.5,42:0.1}/100"
    assert SparseVector(vector.indices[:0], vector.values[:0]).as_pgvector(100) == "{}/100"
    long = SparseVector(np.arange(1001, dtype=np.int32), np.ones(1001, np.float32))
    with pytest.raises(ConfigError, match=r"has 1001 weights and pgvector takes 1000; .* top\(1000\)"):
        long.as_pgvector(2000)
    assert long.as_pgvector(2000, limit=16_000).count(":") == 1001
    assert long.top(1000).as_pgvector(2000).count(":") == 1000


def test_features():
    """Keys are strings, and weights that the index would refuse are left out."""
    vector = SparseVector(np.array([7, 250_001], np.int32), np.array([0.25, 1e-40], np.float32))
    assert vector.as_features() == {"7": 0.25}
