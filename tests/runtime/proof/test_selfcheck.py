"""The self-check: what a session may differ from the recorded values, and by how much it may not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import FromIds
from spoil import change_manifest

from gte_runtime import Embedder
from gte_runtime.arrays import Float32
from gte_runtime.bundle.directory import Bundle
from gte_runtime.errors import BundleError, SelfCheckFailed
from gte_runtime.format.manifest import Manifest, SelfCheck
from gte_runtime.inference.batch import Batch
from gte_runtime.inference.session import NOTHING, Outputs, Share
from gte_runtime.proof.selfcheck import self_check
from gte_runtime.tokenization import Tokenizer

VARIANT = "cpu-fp32"
TOLERANCE = 1e-3


class Recorded(FromIds):
    """Gives what a manifest records, with something added to the vector and the weights of one check."""

    def __init__(self, manifest: Manifest, off: int = -1, *, cls: float = 0.0, weights: float = 0.0) -> None:
        super().__init__()
        self.by_ids = {check.ids: check for check in manifest.self_checks}
        self.logits_by_ids = {check.ids: check.logit for check in manifest.pair_checks}
        self.order = list(self.by_ids or self.logits_by_ids)
        self.off, self.by, self.weights_by = off, cls, weights

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        texts = [tuple(text.tolist()) for text in np.split(batch.input_ids, batch.cu_seqlens[1:-1])]
        self.runs.append(([list(text) for text in texts], share, owner, states))
        off = [self.order.index(text) == self.off for text in texts]
        if self.logits_by_ids:
            logits = [self.logits_by_ids[t] + o * self.by for t, o in zip(texts, off, strict=True)]
            return Outputs(NOTHING, NOTHING, np.array(logits, np.float32))
        checks = [self.by_ids[text] for text in texts]
        return Outputs(
            np.stack([turned(check, o * self.by) for check, o in zip(checks, off, strict=True)]),
            np.concatenate(
                [heavier(check, o * self.weights_by) for check, o in zip(checks, off, strict=True)]
            ),
        )


def turned(check: SelfCheck, by: float) -> Float32:
    """The recorded vector, and at a right angle to it so much more: their distance is about `by`.

    Not normalised.
    """
    vector = check.vector().astype(np.float64)
    across = np.roll(vector, 1) - (np.roll(vector, 1) @ vector) * vector
    return (7 * (vector + by * across / np.linalg.norm(across))).astype(np.float32)


def heavier(check: SelfCheck, by: float) -> Float32:
    """The recorded weights, one of them larger by a share of the largest (at least of 1)."""
    weights = np.array(check.token_weights, np.float32)
    weights[-1] += np.float32(by * max(1.0, weights.max()))
    return weights


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    """Of an embedding model, with a tolerance that float32 does not blur, and without lengths of vectors, as
    before 2026-11-28."""
    recorded = with_tolerance(Bundle.open(tiny_bundle).manifest)
    return replace(recorded, self_checks=tuple(replace(c, norm=0.0) for c in recorded.self_checks))


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Path) -> Tokenizer:
    return Tokenizer((tiny_bundle / "tokenizer.json").read_bytes())


def with_tolerance(manifest: Manifest) -> Manifest:
    variant = replace(manifest.variants[VARIANT], tolerance=TOLERANCE)
    return replace(manifest, variants=manifest.variants | {VARIANT: variant})


def test_recorded_values_pass(manifest: Manifest, tokenizer: Tokenizer):
    """A session that gives them has no distance from them, whatever the length of its vectors."""
    assert self_check(manifest, VARIANT, tokenizer, Recorded(manifest), thorough=True) < 1e-6


@pytest.mark.parametrize(("share", "passes"), [(1 - 4.9e-3, True), (1 + 4.9e-3, True), (1.0051, False)])
def test_the_length_of_a_vector(manifest: Manifest, tokenizer: Tokenizer, share: float, passes: bool):
    """Before it is normalised it may differ by five tolerances, and where none is recorded by anything."""
    session = Recorded(manifest)  # gives vectors of length 7
    first, *rest = manifest.self_checks
    recorded = replace(manifest, self_checks=(replace(first, norm=7 / share), *rest))
    if passes:
        self_check(recorded, VARIANT, tokenizer, session, thorough=True)
        return
    with pytest.raises(SelfCheckFailed, match=r"has the length 7 before it is normalised, recorded is 6.96"):
        self_check(recorded, VARIANT, tokenizer, session, thorough=True)


def test_every_check_counts(manifest: Manifest, tokenizer: Tokenizer):
    """A vector that is off by more than the tolerance fails, in whichever text; one that is off by less is
    measured.
    """
    for number in range(len(manifest.self_checks)):
        near = Recorded(manifest, number, cls=0.9 * TOLERANCE)
        assert self_check(manifest, VARIANT, tokenizer, near, thorough=True) == pytest.approx(
            0.9 * TOLERANCE, rel=0.01
        )
        far = Recorded(manifest, number, cls=1.1 * TOLERANCE)
        with pytest.raises(SelfCheckFailed, match="a vector of the self-check differs"):
            self_check(manifest, VARIANT, tokenizer, far, thorough=True)


def test_every_weight_counts(manifest: Manifest, tokenizer: Tokenizer):
    """Token weights may be off by five tolerances, as a share of the largest, and by no more: too much or too
    little.
    """
    for number in range(len(manifest.self_checks)):
        for sign in (1, -1):
            near = Recorded(manifest, number, weights=sign * 4.9 * TOLERANCE)
            self_check(manifest, VARIANT, tokenizer, near, thorough=True)
            far = Recorded(manifest, number, weights=sign * 5.1 * TOLERANCE)
            with pytest.raises(SelfCheckFailed, match=r"token weights .* differ by 5\.1e-03"):
                self_check(manifest, VARIANT, tokenizer, far, thorough=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_fails(manifest: Manifest, tokenizer: Tokenizer, value: float):
    """A comparison with NaN is never true, so it must not be what refuses."""
    with pytest.raises(SelfCheckFailed, match="a vector"), np.errstate(invalid="ignore"):
        self_check(manifest, VARIANT, tokenizer, Recorded(manifest, 0, cls=value), thorough=True)
    with pytest.raises(SelfCheckFailed, match="token weights"):
        self_check(manifest, VARIANT, tokenizer, Recorded(manifest, 0, weights=value), thorough=True)


def test_weights_of_a_model_without_sparse_head(manifest: Manifest, tokenizer: Tokenizer):
    """They are zeros that nobody reads, and are not compared."""
    dense = replace(manifest, sparse=False)
    self_check(dense, VARIANT, tokenizer, Recorded(manifest, 0, weights=9.0), thorough=True)


def test_the_long_text_only_where_it_is_thorough(manifest: Manifest, tokenizer: Tokenizer):
    """At every load the short texts run together; the first time and in `gte verify` the long one too, by
    itself.
    """
    flash_from = manifest.variants[VARIANT].flash_from
    short = [check for check in manifest.self_checks if len(check.ids) < flash_from]
    assert 0 < len(short) < len(manifest.self_checks)
    quick, thorough = Recorded(manifest), Recorded(manifest)
    self_check(manifest, VARIANT, tokenizer, quick, thorough=False)
    assert [len(run[0]) for run in quick.runs] == [len(short)]
    self_check(manifest, VARIANT, tokenizer, thorough, thorough=True)
    assert [len(run[0]) for run in thorough.runs] == [
        len(short),
        *[1] * (len(manifest.self_checks) - len(short)),
    ]


def test_other_ids(manifest: Manifest, tokenizer: Tokenizer):
    """A tokenizer that gives other ids than at the build belongs to another model."""
    first, *others = manifest.self_checks
    changed = replace(manifest, self_checks=(replace(first, text=first.text + " more"), *others))
    with pytest.raises(BundleError, match="tokenizer and model do not belong together"):
        self_check(changed, VARIANT, tokenizer, Recorded(manifest), thorough=True)


def test_scores_of_a_reranker(reranker_bundle: Path):
    """Every pair's logit within the tolerance, as a share of it where it is above 1."""
    manifest = with_tolerance(Bundle.open(reranker_bundle).manifest)
    tokenizer = Tokenizer((reranker_bundle / "tokenizer.json").read_bytes())
    for number, check in enumerate(manifest.pair_checks):
        scale = max(1.0, abs(check.logit))
        near = Recorded(manifest, number, cls=0.9 * TOLERANCE * scale)
        assert self_check(manifest, VARIANT, tokenizer, near, thorough=True) == pytest.approx(
            0.9 * TOLERANCE, rel=0.01
        )
        for by in (1.1 * TOLERANCE * scale, -1.1 * TOLERANCE * scale, np.nan):
            with pytest.raises(SelfCheckFailed, match="a score of the self-check is"):
                self_check(manifest, VARIANT, tokenizer, Recorded(manifest, number, cls=by), thorough=True)


class Exact(Recorded):
    """Gives these vectors, weights and logits for every check, whatever the manifest records."""

    def __init__(
        self, manifest: Manifest, cls: Sequence[float] = (), weight: float = 0.0, logit: float = 0.0
    ) -> None:
        super().__init__(manifest)
        self.state, self.weight, self.score = np.array(cls, np.float32), weight, logit

    def run(
        self, batch: Batch, share: Share = "any", owner: object = None, *, states: bool = False
    ) -> Outputs:
        if self.logits_by_ids:
            return Outputs(NOTHING, NOTHING, np.full(len(batch.rows), self.score, np.float32))
        weights = np.full(len(batch.input_ids), self.weight, np.float32)
        return Outputs(np.stack([self.state] * len(batch.rows)), weights)


def recording(manifest: Manifest, tolerance: float, weight: float) -> Manifest:
    """Every check records the vector (1, 0, 0, 0) and the same weight for every token."""
    variant = replace(manifest.variants[VARIANT], tolerance=tolerance)
    checks = tuple(
        replace(check, dense=(1.0, 0.0, 0.0, 0.0), token_weights=(weight,) * len(check.ids))
        for check in manifest.self_checks
    )
    return replace(manifest, variants=manifest.variants | {VARIANT: variant}, self_checks=checks)


def test_a_difference_of_exactly_the_tolerance_passes(manifest: Manifest, tokenizer: Tokenizer):
    """Vectors: opposite ones are 2 apart. Lengths do not count, so (-3, 0, 0, 0) is as (-1, 0, 0, 0)."""
    recorded = recording(manifest, 2.0, 1.0)
    opposite = Exact(recorded, (-3, 0, 0, 0), 1.0)
    assert self_check(recorded, VARIANT, tokenizer, opposite, thorough=True) == 2.0
    with pytest.raises(SelfCheckFailed) as caught:
        self_check(recording(manifest, 1.99, 1.0), VARIANT, tokenizer, opposite, thorough=True)
    assert caught.value.cos == -1.0


@pytest.mark.parametrize(("recorded", "most"), [(0.0, 0.625), (0.5, 1.125), (1.0, 1.625), (4.0, 6.5)])
def test_weights_of_exactly_five_tolerances_pass(
    manifest: Manifest, tokenizer: Tokenizer, recorded: float, most: float
):
    """As a share of the largest weight, but of no less than 1: 5/8 from weights up to 1, 5/2 from 4."""
    expected = recording(manifest, 0.125, recorded)
    self_check(expected, VARIANT, tokenizer, Exact(expected, (1, 0, 0, 0), most), thorough=True)
    with pytest.raises(SelfCheckFailed, match="token weights") as caught:
        self_check(expected, VARIANT, tokenizer, Exact(expected, (1, 0, 0, 0), most + 0.01), thorough=True)
    assert caught.value.cos == 1.0


@pytest.mark.parametrize(
    ("recorded", "nearest"), [(0.0, 0.25), (0.5, 0.75), (-1.0, -0.75), (4.0, 5.0), (-4.0, -3.0), (4.0, 3.0)]
)
def test_a_score_of_exactly_the_tolerance_passes(reranker_bundle: Path, recorded: float, nearest: float):
    """As a share of the score where that is above 1, whatever the signs: 1/4 up to 1, 1 from 4."""
    manifest = Bundle.open(reranker_bundle).manifest
    variant = replace(manifest.variants[VARIANT], tolerance=0.25)
    checks = tuple(replace(check, logit=recorded) for check in manifest.pair_checks)
    manifest = replace(manifest, variants=manifest.variants | {VARIANT: variant}, pair_checks=checks)
    tokenizer = Tokenizer((reranker_bundle / "tokenizer.json").read_bytes())
    assert self_check(manifest, VARIANT, tokenizer, Exact(manifest, logit=nearest), thorough=True) == 0.25
    further = nearest + np.sign(nearest - recorded) * 0.01
    with pytest.raises(SelfCheckFailed, match="a score"):
        self_check(manifest, VARIANT, tokenizer, Exact(manifest, logit=further), thorough=True)


def test_the_path_of_a_check_is_that_of_its_text(manifest: Manifest, tokenizer: Tokenizer):
    """A text of exactly `flash_from` tokens runs alone, and only where the check is thorough."""
    lengths = [len(check.ids) for check in manifest.self_checks]
    for flash_from in sorted(set(lengths)):
        variant = replace(manifest.variants[VARIANT], flash_from=flash_from)
        changed = replace(manifest, variants=manifest.variants | {VARIANT: variant})
        short = [length for length in lengths if length < flash_from]
        expected = ([short] if short else []) + [[length] for length in lengths if length >= flash_from]
        for thorough in (True, False):
            session = Recorded(changed)
            self_check(changed, VARIANT, tokenizer, session, thorough=thorough)
            found = [[len(text) for text in run[0]] for run in session.runs]
            assert found == (expected if thorough else [run for run in expected if run == short])


def test_pairs_run_as_texts_do(reranker_bundle: Path):
    """The short ones together, the long one alone and only where it is thorough; other ids are refused."""
    manifest = Bundle.open(reranker_bundle).manifest
    tokenizer = Tokenizer((reranker_bundle / "tokenizer.json").read_bytes())
    lengths = [len(check.ids) for check in manifest.pair_checks]
    flash_from = manifest.variants[VARIANT].flash_from
    short = [length for length in lengths if length < flash_from]
    assert 1 < len(short) == len(lengths) - 1
    for thorough in (True, False):
        session = Recorded(manifest)
        self_check(manifest, VARIANT, tokenizer, session, thorough=thorough)
        runs = [[len(text) for text in run[0]] for run in session.runs]
        assert runs == [short, [max(lengths)]][: 1 + thorough]
    changed = replace(manifest.pair_checks[0], query="another query")
    with pytest.raises(BundleError, match="tokenizer and model do not belong together"):
        self_check(
            replace(manifest, pair_checks=(changed, *manifest.pair_checks[1:])),
            VARIANT,
            tokenizer,
            Recorded(manifest),
            thorough=True,
        )


def test_what_is_told_is_the_largest_difference(manifest: Manifest, tokenizer: Tokenizer):
    """Not the first nor the last check's."""
    session = Recorded(manifest, 1, cls=0.5 * TOLERANCE)
    assert self_check(manifest, VARIANT, tokenizer, session, thorough=True) == pytest.approx(
        0.5 * TOLERANCE, rel=0.01
    )


def test_another_weight_is_noticed_at_load(tiny_bundle: Path, tmp_path: Path):
    """A manifest that records one token weight a thousandth larger than the model gives is refused."""
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)

    def change(raw: dict[str, Any]) -> None:
        weights = raw["self_checks"][0]["token_weights"]
        weights[1] += 1e-3 * max(1.0, *weights)

    change_manifest(copy, change)
    with pytest.raises(SelfCheckFailed, match="token weights of the self-check differ"):
        Embedder.open(copy)
