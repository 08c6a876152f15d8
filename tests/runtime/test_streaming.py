"""Any number of texts in bounded memory, in parts: the rows of `encode`, and bad texts named."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from doubles import on_session, poisoned
from golden import Golden
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime import Embedder
from gte_runtime.errors import (
    InputError,
    InputTooLongError,
    NonFiniteOutputError,
)
from gte_runtime.streaming import in_parts
from gte_runtime.tokenization import Tokens


@pytest.fixture(scope="module")
def gte(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle) as engine:
        yield engine


def test_stream_is_encode(gte: Embedder, golden: Golden):
    """A stream gives the rows of `encode`, in order, from an iterator that is read bit by bit."""
    whole = gte.encode(golden.texts)
    parts = list(gte.stream(iter(golden.texts), texts_per_part=4))
    assert [len(part) for part in parts] == [4, 4, 4, 1]
    assert np.array_equal(np.concatenate([part.dense for part in parts]), whole.dense)
    assert np.concatenate([part.index for part in parts]).tolist() == list(range(len(golden.texts)))


def test_stream_reads_one_part_ahead_and_no_further(gte: Embedder):
    """Memory stays bounded: an endless source is fine."""
    read = []

    def endless() -> Iterator[str]:
        while True:
            read.append(1)
            yield "text"

    next(gte.stream(endless(), texts_per_part=8))
    assert len(read) == 16


def test_stream_names_bad_texts_and_goes_on(gte: Embedder, golden: Golden):
    """One bad text fails neither its neighbours nor the stream."""
    bad = [golden.texts[0], None, "half \ud800", golden.texts[1], "long " * 50]
    (part,) = gte.stream(bad, max_length=20, truncate=False)
    assert part.index.tolist() == [0, 3]
    assert [(r.index, type(r.error)) for r in part.rejected] == [
        (1, InputError),
        (2, InputError),
        (4, InputTooLongError),
    ]
    assert np.array_equal(part.dense, gte.encode(golden.texts[:2]).dense)


def test_stream_rejects_rows_that_are_not_finite(gte: Embedder, golden: Golden):
    """A row of NaN is named, and the rows beside it are whole."""
    poison = golden.ids(2)[1]
    engine = on_session(gte, poisoned(gte.engine.session, poison))
    (part,) = engine.stream([golden.texts[0], golden.texts[2], golden.texts[1]])
    assert part.index.tolist() == [0, 2]
    assert [(r.index, type(r.error)) for r in part.rejected] == [(1, NonFiniteOutputError)]
    assert np.isfinite(part.dense).all()


def test_stream_of_a_source_that_fails(gte: Embedder):
    """What came before the failure is given first, also where it does not fill a part."""

    def failing() -> Iterator[str]:
        yield from ("one", "two", "three")
        raise OSError("the disk is gone")

    read: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):  # noqa: PT012 - what was read before is the subject
        for part in gte.stream(failing(), texts_per_part=2):
            read += part.index.tolist()
    assert read == [0, 1, 2]


# in_parts


def lengths(part: Sequence[object], first: int) -> list[Tokens | InputError]:
    return [Tokens(np.array([first + n]), False) for n, _ in enumerate(part)]


@given(st.integers(0, 30), st.integers(1, 8))
def test_parts_are_in_order(count: int, size: int):
    """Whatever the sizes: each part once, with its first text's position; only the last may be smaller."""

    def run(first: int, tokens: list[Tokens | InputError]) -> tuple[int, list[int]]:
        return first, [int(one.ids[0]) for one in tokens if isinstance(one, Tokens)]

    parts = list(in_parts(iter(range(count)), size, lengths, run))
    assert [first for first, _ in parts] == list(range(0, count, size))
    assert [one for _, ids in parts for one in ids] == list(range(count))
    assert all(len(ids) == size for _, ids in parts[:-1])


def test_texts_are_read_in_the_callers_thread():
    """An iterator may belong to it, as a database cursor does; another thread tokenizes."""
    reading: set[str] = set()
    tokenizing: set[str] = set()

    def texts() -> Iterator[str]:
        for _ in range(6):
            reading.add(threading.current_thread().name)
            yield "text"

    def tokenize(part: Sequence[object], first: int) -> list[Tokens | InputError]:
        tokenizing.add(threading.current_thread().name)
        return lengths(part, first)

    list(in_parts(texts(), 2, tokenize, lambda first, tokens: first))
    assert reading == {threading.current_thread().name}
    assert tokenizing == {"gte-tokenize"}


def test_the_next_part_is_tokenized_while_one_runs():
    """The run of the first part ends only when the second has been tokenized."""
    second = threading.Event()

    def tokenize(part: Sequence[object], first: int) -> list[Tokens | InputError]:
        if first:
            second.set()
        return lengths(part, first)

    def run(first: int, tokens: list[Tokens | InputError]) -> bool:
        return second.wait(10)

    assert list(in_parts(iter("abcd"), 2, tokenize, run)) == [True, True]


def test_a_failure_ends_the_stream():
    """Of tokenizing or of a run: it reaches the caller, and no thread is left."""

    def broken(*_: object) -> list[Tokens | InputError]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(in_parts(iter("abcd"), 2, broken, lambda first, tokens: first))
    with pytest.raises(ZeroDivisionError):
        list(in_parts(iter("abcd"), 2, lengths, broken))
    assert not [t for t in threading.enumerate() if t.name.startswith("gte-tokenize")]
