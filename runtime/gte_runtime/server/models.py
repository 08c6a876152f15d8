"""The models of the server: they tokenize, plan, run a batch and read its results.

They know no queue and no request.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .. import sparse
from ..arrays import Int64
from ..embedder import Embedder
from ..errors import GteError
from ..inference.engine import State
from ..inference.session import Share
from ..reranker import Reranker
from ..sparse import SparseVector
from ..tokenization import Tokens, check_max_length, check_text

log = logging.getLogger("gte_runtime.server")

LONGEST = 8192
"""Tokens of the longest text that is accepted, even if the model has positions for more."""


class ServedModel:
    """A model with a name. Its subclasses tokenize."""

    kind = ""
    """What requests and errors call it."""
    token_states = False
    """Whether its runs fetch the states of all tokens."""

    def __init__(self, name: str, library: Embedder | Reranker) -> None:
        self.name = name
        self.library = library
        self.info: dict[str, Any] = library.info
        """To be shown; nothing is decided by it."""
        self.manifest = library.manifest
        self.engine = library.engine
        self.tokenizer = library.tokenizer
        self.tokenizer.notice.tell = self._log
        self.max_length = min(LONGEST, library.max_length)
        """The most that a request may name."""
        self.default_length = min(self.manifest.max_length or LONGEST, self.max_length)
        """What a request gets that names no length."""

    def _log(self, notice: str) -> None:
        log.warning("other text form", extra={"fields": {"model": self.name, "reason": notice}})

    @property
    def workers(self) -> int:
        """Runs that may go on at the same time."""
        return self.engine.workers

    @property
    def specials(self) -> int:
        """Special tokens around an input."""
        return self.tokenizer.specials

    def length_limit(self, max_length: int | None) -> int:
        """A limit in tokens; None is the checkpoint's own. Raises ConfigError for one that the model does not
        take."""
        return (
            self.default_length
            if max_length is None
            else check_max_length(max_length, self.specials, self.max_length)
        )

    def tokenize(
        self,
        inputs: Sequence[Any],
        *,
        max_length: int,
        truncate: bool,
        left: bool = False,
        most_of_each: tuple[int | None, int | None] = (None, None),
        known: dict[str, Any] | None = None,
    ) -> list[Tokens]:
        """Check and tokenize inputs.

        Args:
            inputs: texts, or pairs of texts for a reranker.
            max_length: the limit in tokens, special tokens included.
            truncate: cut what is longer; otherwise raise.
            left: cut at the beginning instead of at the end.
            most_of_each: tokens at most of the first and of the second text of every pair.
            known: what calls for other inputs of a request leave for each other.

        Raises:
            InputError: with the index of the input.
        """
        raise NotImplementedError

    def pieces(self, text: str, specials: bool = True, room: int | None = None) -> list[dict[str, Any]]:
        """Tokens of a text as TEI lists them, with start and stop in characters.

        Args:
            text: the text.
            specials: list the special tokens around it, too.
            room: how many tokens without them; None for all.

        Raises:
            InputError: it cannot be tokenized.
        """
        spans = self.tokenizer.spans(check_text(text, None), room)
        pieces = [{"id": i, "text": text[a:b], "special": False, "start": a, "stop": b} for i, a, b in spans]
        if not specials:
            return pieces
        before, after = (
            [
                {"id": i, "text": self.tokenizer.decode(i), "special": True, "start": None, "stop": None}
                for i in ids
            ]
            for ids in (self.tokenizer.prefix, self.tokenizer.suffix)
        )
        return [*before, *pieces, *after]

    def plan(self, lengths: Sequence[int]) -> list[Int64]:
        """Split texts of so many tokens each into batches: arrays of their positions."""
        return self.engine.plan(lengths).groups

    def cost(self, length: int) -> float:
        """What a text of this many tokens adds to a run. The unit is a token without its attention."""
        return self.engine.cost.of_text(length)

    def run(self, tokens: Sequence[Tokens], share: Share, owner: object = None) -> list[State | GteError]:
        """Run one planned batch. A text that fails has its error in the list."""
        return self.engine.run_batch([t.ids for t in tokens], share, owner, token_states=self.token_states)

    def stop(self, owner: object) -> None:
        self.engine.stop(owner)

    def check(self, share: Share = "extra") -> None:
        """Run a text of the bundle's self-check. Raises GteError."""
        record = (self.manifest.self_checks or self.manifest.pair_checks)[0]
        for answer in self.run([Tokens(np.array(record.ids, np.int64), False)], share):
            if isinstance(answer, GteError):
                raise answer

    def close(self) -> None:
        self.library.close()


class EmbeddingModel(ServedModel):
    """An embedder of the server."""

    kind = "embedder"

    def __init__(self, name: str, library: Embedder) -> None:
        super().__init__(name, library)
        self.steps = library.steps
        self.sparse = library.manifest.sparse
        self.dim = library.dim
        self.gives_states = self.engine.gives_token_states

    @cached_property
    def per_token(self) -> TokenStatesModel:
        return TokenStatesModel(self)

    def tokenize(
        self,
        inputs: Sequence[Any],
        *,
        max_length: int,
        truncate: bool,
        left: bool = False,
        most_of_each: tuple[int | None, int | None] = (None, None),
        known: dict[str, Any] | None = None,
    ) -> list[Tokens]:
        checked = [check_text(text, index) for index, text in enumerate(inputs)]
        return self.tokenizer.encode(checked, max_length=max_length, truncate=truncate, left=left)

    def sparse_vector(self, tokens: Tokens, state: State) -> SparseVector:
        return sparse.sparse_vector(_weighted(tokens, state), state.token_weights, self.steps.dropped)

    def by_string(self, tokens: Tokens, state: State) -> dict[str, float]:
        return sparse.by_string(
            _weighted(tokens, state), state.token_weights, self.steps.dropped, self.tokenizer.decode
        )

    def prompt(self, name: str | None) -> str:
        """A prompt's text; None is the model's default prompt. Raises ConfigError for an unknown name."""
        return self.steps.prompt(name)


class TokenStatesModel(EmbeddingModel):
    """An embedder whose runs fetch the states of all tokens.

    The scheduler sees it as another model, so the runs of other requests do not fetch them.
    """

    token_states = True

    def __init__(self, model: EmbeddingModel) -> None:
        assert isinstance(model.library, Embedder)
        super().__init__(model.name, model.library)


class RerankerModel(ServedModel):
    """A reranker of the server. An input is a (query, document) pair; its score is the state's `logit`."""

    kind = "reranker"

    @property
    def specials(self) -> int:
        return self.tokenizer.pair_specials

    def tokenize(
        self,
        inputs: Sequence[Any],
        *,
        max_length: int,
        truncate: bool,
        left: bool = False,
        most_of_each: tuple[int | None, int | None] = (None, None),
        known: dict[str, Any] | None = None,
    ) -> list[Tokens]:
        checked: set[str] = set()
        for index, pair in enumerate(inputs):
            for text in pair:
                if text not in checked:  # a query is in all pairs
                    checked.add(check_text(text, index))
        return self.tokenizer.encode_pairs(
            inputs,
            max_length=max_length,
            truncate=truncate,
            known=known,
            left=left,
            most_of_each=most_of_each,
        )


def _weighted(tokens: Tokens, state: State) -> Int64:
    """The ids to which the token weights of a text belong."""
    return tokens.ids if state.token_ids is None else state.token_ids
