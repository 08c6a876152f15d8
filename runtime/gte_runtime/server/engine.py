"""One model of the server: tokenize, plan, run a batch. Knows no queue and no request.

A batch that fails is halved until the texts that fail stand alone, so that a bad one takes nobody along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import sparse
from ..arrays import Float32, Int64
from ..errors import Cancelled, EngineError, ForkedProcessError, GteError, InputTooLongError, NonFiniteOutputError
from ..format.manifest import STATES
from ..inference.batch import Batch, make_batch
from ..inference.plan import plan_packed, plan_padded, plan_ragged, shared, spread
from ..inference.session import Outputs, Share
from ..sparse import SparseVector
from ..tokenization import Tokens, check_max_length, check_text

if TYPE_CHECKING:
    from ..embedder import Embedder, Parts


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the model says of one text."""

    cls: Float32
    """State of the first token, [H], not normalised."""
    weights: Float32
    """Of its tokens, special ones included, [n]."""
    vectors: Float32 | None = None
    """States of its tokens, [n, H], where they were asked for."""


class Engine:
    """What all models of the server share. `tokenize` and `_answers` are their own."""

    kind = ""

    def __init__(self, name: str, library: Any) -> None:
        self.name = name
        self.library = library
        self.info: dict[str, Any] = library.info
        self.manifest = library.manifest
        self.max_length: int = min(8192, library.max_length)
        self.parts: Parts = library.parts
        self.tokenizer: Any = self.parts.tokenizer
        self.workers = self.parts.session.workers

    def length_limit(self, max_length: int | None) -> int:
        """Raises ConfigError outside what the model takes."""
        return self.max_length if max_length is None else check_max_length(max_length, self.specials, self.max_length)

    @property
    def specials(self) -> int:
        return int(self.tokenizer.specials)

    def tokenize(self, inputs: Sequence[Any], *, max_length: int, truncate: bool, left: bool = False) -> list[Tokens]:
        """Tokens of checked or unchecked inputs. Raises InputError with the index."""
        raise NotImplementedError

    def plan(self, lengths: Sequence[int]) -> list[Int64]:
        p = self.parts
        if p.variant.batch == "padded":
            return plan_padded(lengths, p.budget)
        if p.variant.batch == "packed":
            return plan_packed(lengths, spread(p.budget, sum(lengths), self.workers))
        return plan_ragged(lengths, p.variant.flash_from, shared(p.budget, sum(lengths), self.workers, p.cost), p.cost)

    def cost(self, length: int) -> float:
        return length + length**2 / self.parts.cost.scores

    def run(self, tokens: Sequence[Tokens], share: Share, party: object = None) -> list[Any]:
        """Run one planned group. A text that fails has its error in the list."""
        try:
            return self._run(tokens, share, party)
        except (Cancelled, ForkedProcessError) as error:
            return [error] * len(tokens)
        except EngineError as error:
            if len(tokens) == 1:
                return [error]
            half = len(tokens) // 2
            return self.run(tokens[:half], share, party) + self.run(tokens[half:], share, party)

    def _run(self, tokens: Sequence[Tokens], share: Share, party: object) -> list[Any]:
        ids = [t.ids for t in tokens]
        batch = make_batch(np.arange(len(ids)), ids, self.parts.variant.flash_from)
        return self._answers(batch, self._outputs(batch, share, party))

    def _outputs(self, batch: Batch, share: Share, party: object) -> Outputs:
        return self.parts.session.run(batch, share, party)

    def _answers(self, batch: Batch, out: Outputs) -> list[Any]:
        raise NotImplementedError

    def stop(self, party: object) -> None:
        self.parts.session.stop(party)

    def check(self, share: Share = "extra") -> None:
        """A forward pass of a recorded text. Raises GteError."""
        record = (self.manifest.self_checks or self.manifest.pair_checks)[0]
        for answer in self.run([Tokens(np.array(record.ids, np.int64), False)], share):
            if isinstance(answer, GteError):
                raise answer

    def close(self) -> None:
        self.library.close()


class Encoder(Engine):
    """An embedder as the server uses it."""

    kind = "embedder"

    def __init__(self, name: str, embedder: Embedder) -> None:
        super().__init__(name, embedder)
        self.sparse = embedder.manifest.sparse
        self.dim = embedder.dim
        self.gives_states = self.parts.variant.outputs == STATES

    @cached_property
    def per_token(self) -> PerToken:
        return PerToken(self.name, self.library)

    def tokenize(self, inputs: Sequence[Any], *, max_length: int, truncate: bool, left: bool = False) -> list[Tokens]:
        """`left` keeps the end of a text that is too long, instead of its beginning."""
        checked = [check_text(text, index) for index, text in enumerate(inputs)]
        if not left:
            return list(self.tokenizer.encode(checked, max_length=max_length, truncate=truncate))
        whole = self.tokenizer.encode(checked, max_length=2**40)
        if not truncate and (long := [i for i, tokens in enumerate(whole) if len(tokens.ids) > max_length]):
            raise InputTooLongError(tokens=len(whole[long[0]].ids), limit=max_length, index=long[0])
        return [self._end_of(tokens, max_length) for tokens in whole]

    def _end_of(self, tokens: Tokens, limit: int) -> Tokens:
        if len(tokens.ids) <= limit:
            return tokens
        prefix, suffix = self.tokenizer.prefix, self.tokenizer.suffix
        body = tokens.ids[len(prefix) : len(tokens.ids) - len(suffix)]
        return Tokens(np.array([*prefix, *body[len(body) - limit + self.specials :], *suffix], np.int64), True)

    def _answers(self, batch: Batch, out: Outputs) -> list[State | GteError]:
        weights = np.split(out.token_weights, batch.cu_seqlens[1:-1])
        good = np.asarray(np.isfinite(out.cls).all(axis=1) & out.cls.any(axis=1))
        return [
            State(cls, row) if fine and np.isfinite(row).all() else NonFiniteOutputError(index)
            for index, (cls, row, fine) in enumerate(zip(out.cls, weights, good.tolist(), strict=True))
        ]

    def sparse_vector(self, tokens: Tokens, state: State) -> SparseVector:
        return sparse.sparse_vector(tokens.ids, state.weights, self.manifest.tokenizer.drop_ids)

    def by_string(self, tokens: Tokens, state: State) -> dict[str, float]:
        return sparse.by_string(tokens.ids, state.weights, self.manifest.tokenizer.drop_ids, self.tokenizer.decode)

    def prompt(self, name: str | None) -> str:
        """What is put before every text: as `Embedder.encode` does with `prompt_name`. Raises ConfigError for a name the model lacks."""
        prompt: str = self.library._prompt(name)
        return prompt

    def pieces(self, text: str, specials: bool = True) -> list[dict[str, Any]]:
        """Tokens of a text and where each stands in it, in characters. Raises InputError."""
        spans = self.tokenizer.spans(check_text(text, None))
        pieces = [{"id": i, "text": text[a:b], "special": False, "start": a, "stop": b} for i, a, b in spans]
        if not specials:
            return pieces
        before, after = (
            [{"id": i, "text": self.tokenizer.decode(i), "special": True, "start": None, "stop": None} for i in ids]
            for ids in (self.tokenizer.prefix, self.tokenizer.suffix)
        )
        return [*before, *pieces, *after]


class PerToken(Encoder):
    """The same embedder for those who want states of tokens. Another model to the scheduler, so that nobody else's run fetches them."""

    def _outputs(self, batch: Batch, share: Share, party: object) -> Outputs:
        return self.parts.session.run(batch, share, party, states=True)

    def _answers(self, batch: Batch, out: Outputs) -> list[State | GteError]:
        answers = super()._answers(batch, out)
        for row, vectors in enumerate(np.split(out.token_states, batch.cu_seqlens[1:-1])):
            if isinstance(answer := answers[row], State):
                finite = bool(np.isfinite(vectors).all())
                answers[row] = replace(answer, vectors=vectors) if finite else NonFiniteOutputError(row)
        return answers


class PairScorer(Engine):
    """A reranker as the server uses it: an input is a (query, document) pair, an answer is a float."""

    kind = "reranker"

    @property
    def specials(self) -> int:
        return int(self.tokenizer.pair_specials)

    def tokenize(self, inputs: Sequence[Any], *, max_length: int, truncate: bool, left: bool = False) -> list[Tokens]:
        pairs = [(check_text(query, index), check_text(document, index)) for index, (query, document) in enumerate(inputs)]
        return list(self.tokenizer.encode_pairs(pairs, max_length=max_length, truncate=truncate))

    def _answers(self, batch: Batch, out: Outputs) -> list[float | GteError]:
        return [v if np.isfinite(v) else NonFiniteOutputError(i) for i, v in enumerate(out.logits.tolist())]
