"""The self-check of a bundle: a few texts or pairs, and the oracle's outputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.files import Folder
from ..checkpoint.modules import Settings
from ..checkpoint.splade import Splade
from ..checkpoint.tensors import Checkpoint
from ..format.manifest import MAX_EXPANDED, PairCheck, SelfCheck
from ..inference.expansion import activated
from ..proof.oracle import Reference, after_encoder, expansion, forward
from ..scoring import cut_and_normalise
from ..tokenization import Tokenizer

SHORT_TEXTS = ("What is the capital of China?", "北京是中华人民共和国的首都。", "Привет, мир! 你好 — ½ ﬁn")

SHORT_PAIRS = (
    ("What is the capital of China?", "北京是中华人民共和国的首都。"),
    ("What is the capital of China?", "To sort a list in Python, call sorted()."),
    ("Привет, мир!", "你好 — ½ ﬁn"),
)

LONG_TEXT = "The quick brown fox jumps over the lazy dog, and sorts 1024 numbers in Python. " * 10
"""Long enough for the attention path without a mask. Run for new files, and by `gte verify`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The oracle's outputs for a self-check text or, if `pair` is given, for a pair."""

    text: str
    ids: NDArray[np.int64]
    reference: Reference
    pair: tuple[str, str] | None = None
    vector: NDArray[np.floating] | None = None
    """Of a text: what follows the encoder makes of its states, [dim], not normalised."""
    expansion: NDArray[np.floating] | None = None
    """Of a text, in a sparse encoder: its weight of each entry of the vocabulary, [V]."""

    def self_check(self) -> SelfCheck:
        """What the manifest records of a text."""
        assert self.vector is not None
        dense = cut_and_normalise(self.vector[None].astype(np.float32))[0]
        return SelfCheck(
            text=self.text,
            ids=tuple(self.ids.tolist()),
            dense=_rounded(dense),
            token_weights=_rounded(self.reference.token_weights),
            norm=float(f"{np.linalg.norm(self.vector):.8g}"),
            **self._expanded(),
        )

    def _expanded(self) -> dict[str, tuple[Any, ...]]:
        if self.expansion is None:
            return {}
        # Rounded first, so that the choice among nearly equal weights does not depend on the BLAS library.
        rounded = np.array(_rounded(self.expansion.astype(np.float32)))
        largest = np.sort(np.argsort(-rounded, kind="stable")[:MAX_EXPANDED])
        return {
            "expanded_ids": tuple(largest.tolist()),
            "expanded_weights": tuple(rounded[largest].tolist()),
        }

    def pair_check(self) -> PairCheck:
        """What the manifest records of a pair."""
        assert self.pair is not None
        query, document = self.pair
        return PairCheck(
            query=query,
            document=document,
            ids=tuple(self.ids.tolist()),
            logit=float(f"{self.reference.logit:.8g}"),
        )


def compute_answers(
    checkpoint: Checkpoint, tokenizer: Tokenizer, settings: Settings = Settings()
) -> tuple[Answer, ...]:
    """Run the oracle on the self-check texts or, for a reranker, pairs."""
    longest = checkpoint.config.architecture.max_positions
    if checkpoint.reranker:
        pairs = (*SHORT_PAIRS, (SHORT_TEXTS[0], LONG_TEXT))
        encoded = [tokens.ids for tokens in tokenizer.encode_pairs(pairs, max_length=longest)]
        return tuple(
            Answer("", one, forward(checkpoint, one), pair) for pair, one in zip(pairs, encoded, strict=True)
        )
    texts = (*SHORT_TEXTS, LONG_TEXT)
    ids = [tokens.ids for tokens in tokenizer.encode(texts, max_length=longest)]

    def answer(text: str, one: NDArray[np.int64]) -> Answer:
        reference = forward(checkpoint, one)
        vector = text_vector(reference.hidden, settings, checkpoint.folder)
        if not checkpoint.has_mlm_head:
            return Answer(text, one, reference, vector=vector)
        logits = expansion(checkpoint, reference.hidden)
        weights = activated(logits, activation_of(checkpoint, settings))
        return Answer(text, one, reference, vector=vector, expansion=weights)

    return tuple(answer(text, one) for text, one in zip(texts, ids, strict=True))


def text_vector(hidden: NDArray[np.floating], settings: Settings, folder: Folder) -> NDArray[np.floating]:
    """What follows the encoder makes of the states of a text's tokens, [n, H]: [dim], not normalised."""
    layers = [(*dense.read(folder), dense.activation) for dense in settings.dense]
    return after_encoder(hidden, settings.pooling, layers)


def activation_of(checkpoint: Checkpoint, settings: Settings) -> str:
    """What makes weights of the logits of a masked-language-model head: one of `manifest.EXPANSIONS`; empty
    where there is no such head."""
    if not checkpoint.has_mlm_head:
        return ""
    return (settings.splade or Splade()).activation(checkpoint.folder)


def largest_inputs(answers: Sequence[Answer]) -> dict[str, NDArray[np.floating]]:
    """{linear layer or norm: largest magnitude of each channel over all answers}; see `proof.oracle`."""
    first = answers[0].reference.largest
    return {name: np.max([answer.reference.largest[name] for answer in answers], axis=0) for name in first}


def short_ids(answers: Sequence[Answer]) -> list[NDArray[np.int64]]:
    """The token ids of all texts or pairs but the long one, which is the last."""
    return [answer.ids for answer in answers[:-1]]


def _rounded(values: NDArray[np.floating]) -> tuple[float, ...]:
    """Round to eight significant digits, about the precision of float32, to keep the manifest short."""
    return tuple(float(f"{value:.8g}") for value in values.tolist())
