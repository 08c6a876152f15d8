"""The class for rerankers: pairs of texts in, scores out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Float32
from .errors import ConfigError, InputError
from .inference.plan import Budget
from .machine.progress import Progress
from .model import Model
from .results import Ranked, Scores
from .scoring import sigmoid as sigmoid_of
from .tokenization import (
    Form,
    OnBadUnicode,
    as_pairs,
    as_texts,
    check_errors,
    check_pair,
    check_switches,
    check_text,
    choose_length,
)

if TYPE_CHECKING:
    from .bundle.directory import Verify


class Reranker(Model):
    """Scores of (query, document) pairs by one model. Safe to use from several threads. Close it, or use
    `with`.

    Scores are batch-invariant, as the vectors of an `Embedder` are: a pair gets the same bits alone and in
    any batch.
    """

    @classmethod
    def open(
        cls,
        model: str | Path = "gte-multilingual-reranker-base",
        *,
        provider: str = "cpu",
        variant: str | None = None,
        threads: int | None = None,
        budget: Budget | None = None,
        encode_special_tokens: bool = False,
        unicode: Form | None = None,
        verify: Verify = "auto",
    ) -> Reranker:
        """Open a reranker's bundle and check that it gives the scores that are recorded in it. Arguments and
        errors are those of `Embedder.open`.

        Raises:
            ConfigError: also for the bundle of an embedding model.
        """
        from .opening import open_model  # here, so that `import gte_runtime` stays fast

        return cls(
            *open_model(
                model,
                reranker=True,
                provider=provider,
                variant=variant,
                threads=threads,
                budget=budget,
                encode_special_tokens=encode_special_tokens,
                unicode=unicode,
                verify=verify,
            )
        )

    @property
    def tolerance(self) -> float:
        """Largest difference that a raw score may have from the oracle's, divided by the oracle's where that
        is above 1."""
        return self.engine.variant.tolerance

    @property
    def max_length(self) -> int:
        """Longest pair that the model can run, in tokens, special tokens included."""
        return self.manifest.architecture.max_positions

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        max_length: int | None = None,
        truncate: bool = True,
        show_progress: bool = False,
        *,
        sigmoid: bool = False,
        errors: OnBadUnicode = "strict",
        unicode: Form | None = None,
    ) -> list[Ranked]:
        """Documents by how well they answer a query, best first. Equal scores keep the input order.

        Args:
            query: the question or search terms; not empty.
            documents: the texts to rank.
            top_k: how many of the best to return; by default all.
            return_documents: return each document's text with its score.
            max_length: most tokens of query and document together, special tokens included; by default as
                the checkpoint says, at most 8192.
            truncate: cut the longer of the two until both fit; False refuses longer pairs.
            show_progress: show a progress bar on stderr, if that is a terminal.
            sigmoid: return scores from 0 to 1 instead of the model's own, which are unbounded. The order is
                the same.
            errors: "replace" puts "?" in the place of a lone surrogate (half a pair); "strict" refuses it.
            unicode: as in `open`, for this call; None is what `open` was given.

        Raises:
            InputError: a text that cannot be used, with the document's index; an empty query; no documents.
            ConfigError: an argument out of range.
        """
        if top_k is not None and (
            isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1
        ):
            raise ConfigError(
                f"top_k is {repr(top_k)[:40]}; expected an integer of at least 1, or None for all"
            )
        check_switches(return_documents=return_documents, truncate=truncate, show_progress=show_progress)
        check_errors(errors)
        if isinstance(documents, str):
            raise InputError("expected an iterable of strings, found str", field="documents", got="str")
        checked_query = _checked(query, None, "query", errors)
        if not checked_query:
            raise InputError("an empty query has no answer", field="query", got="an empty string")
        checked = [
            _checked(text, index, "documents", errors) for index, text in enumerate(_listed(documents))
        ]
        if not checked:
            raise InputError("there are no documents to rank", field="documents", got="an empty list")
        scores = self.evaluate(
            ((checked_query, document) for document in checked),
            max_length,
            truncate,
            show_progress,
            sigmoid=sigmoid,
            unicode=unicode,
        ).scores
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        return [Ranked(row, float(scores[row]), checked[row] if return_documents else None) for row in order]

    def score(
        self,
        pairs: Iterable[tuple[str, str]],
        max_length: int | None = None,
        truncate: bool = True,
        show_progress: bool = False,
        *,
        sigmoid: bool = False,
        errors: OnBadUnicode = "strict",
        unicode: Form | None = None,
    ) -> Float32:
        """Scores of (query, document) pairs in input order, float32 [N]. Arguments are those of `rank`.

        Raises:
            InputError: not a pair of strings; has the index of the pair.
        """
        return self.evaluate(
            pairs, max_length, truncate, show_progress, sigmoid=sigmoid, errors=errors, unicode=unicode
        ).scores

    def evaluate(
        self,
        pairs: Iterable[tuple[str, str]],
        max_length: int | None = None,
        truncate: bool = True,
        show_progress: bool = False,
        *,
        sigmoid: bool = False,
        errors: OnBadUnicode = "strict",
        unicode: Form | None = None,
    ) -> Scores:
        """As `score`, but returns the number of tokens of each pair and whether it was cut, too."""
        check_switches(truncate=truncate, show_progress=show_progress)
        check_errors(errors)
        length = choose_length(
            max_length, self.tokenizer.pair_specials, self.max_length, self.manifest.max_length
        )
        checked = [check_pair(pair, index, errors) for index, pair in enumerate(as_pairs(pairs))]
        tokens = self.tokenizer.encode_pairs(checked, max_length=length, truncate=truncate, unicode=unicode)
        with Progress(len(tokens), show_progress, "pair") as advance:
            logits = self.engine.run([t.ids for t in tokens], done=advance).logits
        return Scores(
            scores=sigmoid_of(logits) if sigmoid else logits,
            tokens=np.array([len(t.ids) for t in tokens], np.int64),
            truncated=np.array([t.truncated for t in tokens], np.bool_),
        )


def _listed(documents: Iterable[str]) -> list[object]:
    try:
        return as_texts(documents)
    except InputError as error:
        raise InputError(error.reason, field="documents", got=error.got) from None


def _checked(text: object, index: int | None, field: str, errors: OnBadUnicode) -> str:
    try:
        return check_text(text, index, errors)
    except InputError as error:
        raise InputError(error.reason, index=index, field=field, got=error.got) from None
