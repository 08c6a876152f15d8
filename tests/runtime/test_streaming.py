"""Any number of texts in bounded memory, in parts: the rows of `encode`, and bad texts named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from doubles import on_session, poisoned
from golden import Golden

from gte_runtime import Embedder
from gte_runtime.errors import (
    InputError,
    InputTooLongError,
    NonFiniteOutputError,
)


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
