"""Whether equal bits hold on this machine: measured with the real session, and with one whose kernels break
it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import Around, FromIds
from invariance import assert_as_alone

from gte_runtime import Embedder, Reranker
from gte_runtime.bundle.directory import Bundle
from gte_runtime.bundle.load import known_invariance
from gte_runtime.device.cpu import CpuSession
from gte_runtime.device.runtime import runtime
from gte_runtime.errors import SelfCheckFailed
from gte_runtime.format.manifest import LOGITS, STATES, Variant
from gte_runtime.inference.batch import Batch
from gte_runtime.inference.session import Outputs
from gte_runtime.proof.invariance import LENGTHS, Invariance, _difference, measure

FEW = 20
"""Rows below which the other kernel rounds in its own way."""
Change = Callable[[Outputs], Outputs]


def other_for_few_rows(session: CpuSession, change: Change) -> Around:
    """The real session, but the outputs of few tokens are changed."""
    return Around(session, lambda batch, out: change(out) if len(batch.input_ids) < FEW else out)


def in_states(out: Outputs) -> Outputs:
    return replace(out, cls=np.nextafter(out.cls, np.float32(9)))


def in_weights(out: Outputs) -> Outputs:
    return replace(out, token_weights=out.token_weights + np.float32(1e-5))


def in_scores(out: Outputs) -> Outputs:
    return replace(out, logits=np.nextafter(out.logits, np.float32(9)))


def nowhere(out: Outputs) -> Outputs:
    return out


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], list[Around]]:
    """Let every session that is loaded from now on change its outputs; gives the list of them."""
    made: list[Around] = []

    def breaking(change: Change) -> list[Around]:
        def other(*arguments: Any, **options: Any) -> Around:
            made.append(other_for_few_rows(CpuSession(*arguments, **options), change))
            return made[-1]

        monkeypatch.setattr("gte_runtime.bundle.load.CpuSession", other)
        return made

    return breaking


@pytest.fixture(autouse=True)
def _new_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GTE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8"])
def test_here_it_holds(tiny_bundle: Path, variant: str):
    with Embedder.open(tiny_bundle, variant=variant) as engine:
        assert engine.info["batch_invariant"] is True
        assert engine.info["batch_difference"] == 0.0


def test_padding_promises_nothing(tiny_bundle: Path):
    """Whatever is measured: a padded text depends on the longest of its batch."""
    with Embedder.open(tiny_bundle, variant="portable-fp32") as engine:
        assert engine.info["batch_invariant"] is False
        assert 0 <= engine.info["batch_difference"] < 1e-5


@pytest.mark.parametrize(
    ("change", "least", "most"),
    [(in_states, 1e-9, 1e-6), (in_weights, 0.9e-6, 1.2e-5)],
    ids=["states", "weights"],
)
def test_kernels_that_break_it(tiny_bundle: Path, broken, change: Change, least: float, most: float):
    """A last bit that depends on the number of rows is found, and its size is told."""
    broken(change)
    with Embedder.open(tiny_bundle) as engine:
        assert engine.info["batch_invariant"] is False
        assert least < engine.info["batch_difference"] < most


def in_nothing(out: Outputs) -> Outputs:
    return replace(out, cls=np.full_like(out.cls, np.nan))


def test_nan_in_the_measurement(tiny_bundle: Path, broken):
    """A kernel that gives NaN for few rows passes the self-check, whose texts run together; it is no small
    difference."""
    broken(in_nothing)
    with pytest.raises(SelfCheckFailed, match="not finite"):
        Embedder.open(tiny_bundle)


def test_a_reranker_s_scores(reranker_bundle: Path, broken):
    with Reranker.open(reranker_bundle) as engine:
        assert engine.info["batch_invariant"] is True
    broken(in_scores)
    with Reranker.open(reranker_bundle, threads=1) as engine:
        assert engine.info["batch_invariant"] is False
        assert 0 < engine.info["batch_difference"] < 1e-6


def test_measured_once_for_each_number_of_threads_and_runtime(
    tiny_bundle: Path, broken, monkeypatch: pytest.MonkeyPatch
):
    """What was found is remembered, also that it does not hold; a new ONNX Runtime is measured again."""

    def runs(threads: int) -> int:
        with Embedder.open(tiny_bundle, threads=threads) as engine:
            assert engine.info["batch_invariant"] is (change is nowhere)
            return len(made[-1].texts_of_runs)

    change = in_states
    made = broken(change)
    first, again = runs(1), runs(1)
    assert first > again + len(LENGTHS)
    assert runs(2) > again + len(LENGTHS)
    monkeypatch.setattr(runtime(), "__version__", "9.0.0")
    change = nowhere
    made = broken(change)
    assert runs(1) > again + len(LENGTHS)


def test_a_note_that_cannot_be_read_is_none(tiny_bundle: Path, tmp_path: Path):
    with Embedder.open(tiny_bundle, threads=1):
        pass
    bundle = Bundle.open(tiny_bundle)
    assert known_invariance(bundle, "cpu-fp32", 1) is not None
    (note,) = (tmp_path / "cache" / "measured").iterdir()
    notes: list[Any] = [{"cpu-fp32": 0.0}, dict.fromkeys(json.loads(note.read_text()), "0.0"), []]
    for damaged in notes:
        note.write_text(json.dumps(damaged))
        assert known_invariance(bundle, "cpu-fp32", 1) is None
    with Embedder.open(tiny_bundle, threads=1) as engine:
        assert engine.info["batch_invariant"] is True


def test_every_batch_is_compared(tiny_bundle: Path):
    """One row of one batch that differs is enough, be it a long text's."""
    bundle = Bundle.open(tiny_bundle)
    variant = bundle.variant("cpu-fp32")
    session = CpuSession(bundle.read(variant.graph), tiny_bundle, variant, 64, threads=2)
    batches: list[tuple[int, ...]] = []

    def spoiling(number: int) -> Around:
        def spoil(batch: Batch, out: Outputs) -> Outputs:
            if len(batch.rows) > 1:
                if len(batches) == number:
                    out.cls[-1] = np.nextafter(out.cls[-1], np.float32(9))
                batches.append(tuple(batch.lengths.tolist()))
            return out

        return Around(session, spoil)

    ids = range(3, 60)
    assert measure(spoiling(-1), variant, ids) == 0.0
    assert (variant.flash_from, variant.flash_from) in batches
    for number in range(len(batches)):
        batches.clear()
        assert measure(spoiling(number), variant, ids) > 0
    session.close()


def test_the_bound_of_the_property_tests(tiny_bundle: Path, broken):
    """Where it does not hold, the tests ask for the difference that was measured, and no less."""
    broken(in_states)
    with Embedder.open(tiny_bundle) as engine:
        alone = engine.encode("北京").dense
        assert_as_alone(engine, alone + np.float32(engine.info["batch_difference"]), alone)
        with pytest.raises(AssertionError):
            assert_as_alone(engine, alone + np.float32(1e-4), alone)


# By example, on a session that computes results from ids


def of(batch: str = "ragged", flash_from: int = 128, outputs: tuple[str, ...] = STATES) -> Variant:
    return Variant(
        graph="g.onnx",
        weights=(),
        batch=batch,
        inputs=(),
        outputs=outputs,
        min_onnxruntime="1.0",
        tolerance=0.0,
        flash_from=flash_from,
    )


@pytest.mark.parametrize(
    ("flash_from", "lengths"), [(128, LENGTHS), (34, LENGTHS[:-1]), (35, LENGTHS), (3, (2,))]
)
def test_what_is_run(flash_from: int, lengths: tuple[int, ...]):
    """Every text alone, then all in both orders, then one of them twice; at last two of `flash_from`."""
    session = FromIds()
    assert measure(session, of(flash_from=flash_from), range(10, 19)) == 0.0
    runs = [([len(text) for text in texts], share) for texts, share, *_ in session.runs]
    first, last = lengths[0], lengths[-1]
    assert runs == [
        *(([length], "all") for length in lengths),
        ([*lengths], "all"),
        ([*lengths][::-1], "one"),
        ([first, last, first], "one"),
        ([flash_from], "all"),
        ([flash_from], "all"),
        ([flash_from, flash_from], "one"),
    ]
    ids = [10, 11, 12, 13, 14, 15, 16, 17, 18]
    assert session.runs[0][0] == [ids[:2]]
    equal = session.runs[-1][0]
    assert equal == [(ids * flash_from)[:flash_from], (ids[::-1] * flash_from)[:flash_from]]


@pytest.mark.parametrize("batch", ["packed", "padded"])
def test_one_path_is_measured_once(batch: str):
    """Only ragged graphs have a second path through attention."""
    session = FromIds()
    assert measure(session, of(batch), range(10, 19)) == 0.0
    assert len(session.runs) == len(LENGTHS) + 3


def with_others(change: Callable[[Outputs], object], **options: Any) -> Around:
    """Changes the outputs of batches of several texts."""

    def changed(batch: Batch, out: Outputs) -> Outputs:
        if len(batch.rows) > 1:
            change(out)
        return out

    return Around(FromIds(**options), changed)


def test_the_measure_of_vectors():
    """The Euclidean distance of the normalised ones: of opposite vectors it is 2, whatever their lengths."""

    def turn(out: Outputs) -> None:
        out.cls[...] *= -3

    assert measure(with_others(turn), of(), range(10, 19)) == pytest.approx(2, rel=1e-6)


def test_bits_that_normalising_hides_count():
    """Twice the vector is the same direction and not the same bits: the smallest difference there is."""

    def double(out: Outputs) -> None:
        out.cls[...] *= 2

    assert measure(with_others(double), of(), range(10, 19)) == np.finfo(np.float32).tiny


@pytest.mark.parametrize(("token", "expected"), [(4, 0.25), (8, 0.25), (16, 0.125), (32, 0.0625)])
def test_the_measure_of_weights(token: int, expected: float):
    """The largest difference, as a share of the largest weight where that is above 1 (a token's is 1/8)."""

    def add(out: Outputs) -> None:
        out.token_weights[-1] -= 0.25

    assert measure(with_others(add), of(), [token]) == expected


@pytest.mark.parametrize(("ids", "expected"), [([5], 0.25), ([2, 2], 0.0625), ([7, 7], 0.0625)])
def test_the_measure_of_scores(ids: list[int], expected: float):
    """The difference, as a share of the score where that is above 1, whatever its sign."""

    def add(out: Outputs) -> None:
        out.logits[...] += 0.25

    session = with_others(add, logits=True)
    assert measure(session, of(flash_from=3, outputs=LOGITS), ids) == expected


@pytest.mark.parametrize(
    ("promised", "difference", "holds"),
    [(True, 0.0, True), (True, 1e-9, False), (True, None, False), (False, 0.0, False)],
)
def test_what_is_told(promised: bool, difference: float | None, holds: bool):
    """It holds where it is promised, was measured, and no bit differed."""
    info = Invariance(promised, difference).as_info()
    assert info == {"batch_invariant": holds, "batch_difference": difference}


@pytest.mark.parametrize("sign", [1, -1])
def test_differences_of_token_weights(sign: int):
    """In either direction, as a share of the largest weight alone, or of 1 where that is smaller."""
    state = np.array([1, 0], np.float32)

    def difference(alone: list[float], together: list[float]) -> float:
        rows = [(state, np.array(weights, np.float32)) for weights in (alone, together)]
        return _difference(of(), rows[0], rows[1])

    assert difference([0.5, 0.25], [0.5, 0.25 + sign * 0.125]) == 0.125
    assert difference([-4.0, 1.0], [-4.0, 1.0 + sign]) == 0.25
    assert difference([], []) == 0
