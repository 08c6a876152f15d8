"""The self-check: a manifest holds texts with the oracle's results, which a session must reproduce."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, SelfCheckFailed
from ..format.manifest import Manifest, PairCheck, SelfCheck
from ..inference.batch import make_batch
from ..inference.session import Expansion, Session
from ..scoring import cut_and_normalise
from ..tokenization import Tokenizer, Tokens

WEIGHT_SLACK = 5
"""Token weights are not normalised. Divided by the largest of a text, or by 1 if that is larger, they may
differ by this many times the tolerance of vectors; and so may the length of a vector, divided by the recorded
one."""


def self_check(
    manifest: Manifest, variant: str, tokenizer: Tokenizer, session: Session, *, thorough: bool
) -> float:
    """Compare a session's results with those in the manifest.

    Args:
        manifest: of the bundle.
        variant: name of the variant.
        tokenizer: the bundle's.
        session: runs the variant.
        thorough: check texts from `flash_from` tokens on too, which take another path through attention.

    Returns:
        The largest Euclidean distance of a normalised vector; for a reranker, the largest difference of a
        score, divided by the score where that is above 1.

    Raises:
        BundleError: the tokenizer gives other token ids.
        SelfCheckFailed: the model gives other vectors, weights or scores.
    """
    published = manifest.variants[variant]
    checks = [c for c in manifest.self_checks if thorough or len(c.ids) < published.flash_from]
    if manifest.reranker:
        return _check_pairs(manifest, variant, tokenizer, session, thorough)
    encoded = tokenizer.encode([c.text for c in checks], max_length=manifest.architecture.max_positions)
    _same_ids(encoded, checks)
    worst = 0.0
    for rows in _groups(checks, published.flash_from):
        batch = make_batch(rows, [np.array(c.ids, np.int64) for c in checks], published.flash_from)
        outputs = session.run(batch)
        weights = np.split(outputs.token_weights, batch.cu_seqlens[1:-1])
        for row, cls, found in zip(rows.tolist(), outputs.cls, weights, strict=True):
            worst = max(
                worst, _compare(variant, checks[row], cls, found, published.tolerance, manifest.sparse)
            )
        for row, expansion in zip(rows.tolist(), outputs.expansions, strict=False):
            worst = max(worst, _compare_expansion(variant, checks[row], expansion, published.tolerance))
    return worst


def _check_pairs(
    manifest: Manifest, variant: str, tokenizer: Tokenizer, session: Session, thorough: bool
) -> float:
    """`self_check` of a reranker."""
    published = manifest.variants[variant]
    checks = [c for c in manifest.pair_checks if thorough or len(c.ids) < published.flash_from]
    _same_ids(
        tokenizer.encode_pairs(
            [(c.query, c.document) for c in checks], max_length=manifest.architecture.max_positions
        ),
        checks,
    )
    worst = 0.0
    for rows in _groups(checks, published.flash_from):
        logits = session.run(
            make_batch(rows, [np.array(c.ids, np.int64) for c in checks], published.flash_from)
        ).logits
        for row, logit in zip(rows.tolist(), logits.tolist(), strict=True):
            expected = checks[row].logit
            difference = abs(logit - expected) / max(1.0, abs(expected))
            worst = max(worst, difference)
            if not difference <= published.tolerance:
                raise SelfCheckFailed(
                    f"variant {variant}: a score of the self-check is {logit:.6f}, recorded is "
                    f"{expected:.6f} (allowed {published.tolerance:.0e}); the weights, the graph or ONNX "
                    "Runtime changed. Build the bundle again with this ONNX Runtime",
                    distance=difference,
                )
    return worst


def _same_ids(encoded: Iterable[Tokens], checks: Iterable[SelfCheck | PairCheck]) -> None:
    for check, tokens in zip(checks, encoded, strict=True):
        if tuple(tokens.ids.tolist()) != check.ids:
            raise BundleError(
                "tokenizer.json gives other ids for the self-check than when the bundle was built; "
                "tokenizer and model do not belong together"
            )


def _groups(checks: Iterable[SelfCheck | PairCheck], flash_from: int) -> list[NDArray[np.int64]]:
    """Which texts run together: all short ones, and each long one alone. So both paths of attention run."""
    lengths = np.array([len(check.ids) for check in checks])
    short = np.flatnonzero(lengths < flash_from)
    alone = np.flatnonzero(lengths >= flash_from)
    return ([short] if len(short) else []) + [np.array([row]) for row in alone]


def _compare(
    variant: str,
    check: SelfCheck,
    cls: NDArray[np.float32],
    weights: NDArray[np.float32],
    tolerance: float,
    sparse: bool,
) -> float:
    found, expected = cut_and_normalise(cls[None])[0], check.vector()
    difference = float(np.linalg.norm(found - expected)) if np.isfinite(found).all() else float("inf")
    cosine = float(found @ expected)
    if not difference <= tolerance:
        raise SelfCheckFailed(
            f"variant {variant}: a vector of the self-check differs from the recorded one by "
            f"{difference:.1e} (cosine {cosine:.6f}, allowed {tolerance:.0e}); the weights, the graph or "
            "ONNX Runtime changed. Build the bundle again with this ONNX Runtime",
            cos=cosine,
            distance=difference,
        )
    length = float(np.linalg.norm(cls.astype(np.float64)))
    if check.norm and not abs(length / check.norm - 1) <= WEIGHT_SLACK * tolerance:
        raise SelfCheckFailed(
            f"variant {variant}: a vector of the self-check has the length {length:.6g} before it is "
            f"normalised, recorded is {check.norm:.6g} (allowed {WEIGHT_SLACK * tolerance:.0e} of it)",
            cos=cosine,
        )
    if sparse:
        recorded = np.array(check.token_weights, np.float32)
        scale = max(1.0, float(np.abs(recorded).max()))
        apart = float(np.abs(weights - recorded).max()) / scale
        allowed = WEIGHT_SLACK * tolerance
        if not apart <= allowed:
            raise SelfCheckFailed(
                f"variant {variant}: token weights of the self-check differ by {apart:.1e} of their largest "
                f"(allowed {allowed:.0e})",
                cos=cosine,
                distance=apart / WEIGHT_SLACK,
            )
    return difference


def _compare_expansion(variant: str, check: SelfCheck, found: Expansion, tolerance: float) -> float:
    """The largest difference of a recorded weight of an expansion, in the unit of the tolerance."""
    weights = dict(zip(found.ids.tolist(), found.weights.tolist(), strict=True))
    recorded = np.array(check.expanded_weights, np.float32)
    ours = np.array([weights.get(entry, 0.0) for entry in check.expanded_ids], np.float32)
    scale = max(1.0, float(recorded.max(initial=0)))
    difference = float(np.abs(ours - recorded).max(initial=0)) / scale / WEIGHT_SLACK
    if not difference <= tolerance:
        raise SelfCheckFailed(
            f"variant {variant}: weights of an expansion of the self-check differ by "
            f"{difference * WEIGHT_SLACK:.1e} of their largest (allowed {WEIGHT_SLACK * tolerance:.0e})",
            distance=difference,
        )
    return difference
