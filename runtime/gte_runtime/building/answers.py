"""The self-check of a bundle: a few texts or pairs, and the oracle's outputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.modules import Settings
from ..checkpoint.tensors import Checkpoint
from ..format.manifest import PairCheck, SelfCheck
from ..proof.oracle import Reference, after_encoder, forward
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
        )

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
    layers = [(*dense.read(checkpoint.folder), dense.activation) for dense in settings.dense]

    def answer(text: str, one: NDArray[np.int64]) -> Answer:
        reference = forward(checkpoint, one)
        return Answer(text, one, reference, vector=after_encoder(reference.hidden, settings.pooling, layers))

    return tuple(answer(text, one) for text, one in zip(texts, ids, strict=True))


def largest_inputs(answers: Sequence[Answer]) -> dict[str, NDArray[np.floating]]:
    """{linear layer or norm: largest magnitude of each channel over all answers}; see `proof.oracle`."""
    first = answers[0].reference.largest
    return {name: np.max([answer.reference.largest[name] for answer in answers], axis=0) for name in first}


def _rounded(values: NDArray[np.floating]) -> tuple[float, ...]:
    """Round to eight significant digits, about the precision of float32, to keep the manifest short."""
    return tuple(float(f"{value:.8g}") for value in values.tolist())
