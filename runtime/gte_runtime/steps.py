"""The steps from texts to vectors as separate functions: `tokens`, `run`, `collect`.

`Embedder` calls one after the other. Benchmarks time each of them; the classes of `compat` need the states
that `run` gives, before they are normalised.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from . import scoring, sparse
from .arrays import Float64, Int64
from .errors import ConfigError, InputError, NonFiniteOutputError
from .format.manifest import Manifest
from .inference.engine import Engine, States
from .inference.expansion import ExpandingSession, static_vector
from .inference.session import Expansion
from .machine.progress import Progress
from .results import Embeddings, Rejected
from .sparse import SparseVectors
from .tokenization import (
    EXACT,
    Form,
    OnBadUnicode,
    Tokenizer,
    Tokens,
    as_texts,
    check_errors,
    check_switches,
    check_text,
    choose_form,
    choose_length,
    encode_each,
)

TokenizePart = Callable[[Sequence[object], int], list[Tokens | InputError]]
"""(texts of one part of a stream, position of the first) -> the tokens of each, or why it was refused."""


class Steps:
    """The steps of one embedding model. Safe to use from several threads."""

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer, engine: Engine) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.engine = engine

    @property
    def dim(self) -> int:
        """Length of an uncut dense vector."""
        return self.manifest.dim

    @property
    def max_length(self) -> int:
        """Tokens the model has positions for, special tokens included."""
        return self.manifest.architecture.max_positions

    def length(self, max_length: object) -> int:
        """The limit in tokens that a call's `max_length` means; None is the checkpoint's own. Raises
        ConfigError for one that the model does not take."""
        specials, positions = self.tokenizer.specials, self.max_length
        return choose_length(max_length, specials, positions, self.manifest.max_length)

    def tokens(
        self,
        texts: str | Iterable[str],
        max_length: int | None = None,
        truncate: bool = True,
        *,
        errors: OnBadUnicode = "strict",
        prompt_name: str | None = "",
        unicode: Form | None = None,
    ) -> list[Tokens]:
        """The first step of `Embedder.encode`: check and tokenize texts. Arguments are those of `encode`, but
        by default there is no prompt."""
        check_errors(errors)
        length = self.length(max_length)
        prompt = self.prompt(prompt_name)
        checked = [prompt + check_text(text, index, errors) for index, text in enumerate(as_texts(texts))]
        return self.tokenizer.encode(checked, max_length=length, truncate=truncate, unicode=unicode)

    def run(
        self, tokens: Sequence[Tokens], *, token_states: bool = False, show_progress: bool = False
    ) -> States:
        """The second step: run the model. Its results are in input order and not normalised.

        Raises:
            NonFiniteOutputError: with the index of the first text whose results are not finite.
        """
        with Progress(len(tokens), show_progress) as advance:
            return self.engine.run([t.ids for t in tokens], token_states=token_states, done=advance)

    def collect(
        self,
        tokens: Sequence[Tokens],
        states: States,
        *,
        dense: bool = True,
        sparse: bool = True,
        dim: int | None = None,
        normalize: bool = True,
        index: Int64 | None = None,
    ) -> Embeddings:
        """The third step: make vectors from the model's results. `index` is the position of each text in the
        input, [N], by default 0 to N - 1."""
        return Embeddings(
            dense=scoring.cut(states.cls, dim, normalize) if dense else None,
            sparse=self._sparse_vectors(tokens, states) if sparse else None,
            tokens=np.array([len(t.ids) for t in tokens], np.int64),
            truncated=np.array([t.truncated for t in tokens], np.bool_),
            index=np.arange(len(tokens)) if index is None else index,
        )

    def weights_by_string(
        self, tokens: Sequence[Tokens], states: States, key: Callable[[int], str] | None = None
    ) -> list[dict[str, float]]:
        """{string: weight} for each text. `key` makes the string from a token id; by default it is the
        decoded token."""
        decode = key or self.tokenizer.decode
        return [
            sparse.by_string(ids, w, self.dropped, decode)
            for ids, w in zip(_weighted(tokens, states), states.token_weights, strict=True)
        ]

    @property
    def dropped(self) -> tuple[int, ...]:
        """Ids that are never part of a sparse vector. Of an expansion none: sentence-transformers drops none
        either, and the queries of "doc" models give special tokens no weight."""
        return () if self.manifest.expansion else self.manifest.tokenizer.drop_ids

    def prompt(self, name: object) -> str:
        """The text of a prompt. None is the model's default prompt, "" is no prompt. Raises ConfigError for a
        name that the model does not have."""
        prompts = self.manifest.prompts
        if name is None:
            name = self.manifest.default_prompt
        if name == "":
            return ""
        if not isinstance(name, str) or name not in prompts:
            known = f"its prompts are {', '.join(prompts)}" if prompts else "it has none"
            raise ConfigError(f"{self.manifest.model} has no prompt {repr(name)[:80]}; {known}")
        return prompts[name]

    def check_dim(self, dim: object) -> int:
        """How many values of a vector to keep; None is what the checkpoint says, mostly all. Warns below the
        smallest dimension that the model was trained for; raises ConfigError outside 1..dim."""
        if dim is None:
            return self.manifest.truncate_dim or self.dim
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or not 1 <= dim <= self.dim:
            raise ConfigError(f"dim is {repr(dim)[:40]}; expected an integer from 1 to {self.dim}")
        if dim < self.manifest.smallest_dim:
            warnings.warn(
                f"dim={dim} is below {self.manifest.smallest_dim}, the shortest this model was trained for",
                stacklevel=3,
            )
        return int(dim)

    def check_sparse(self, asked: bool | None) -> bool:
        """Whether to give sparse vectors; None means wherever the checkpoint has a sparse head."""
        if asked is not None:
            check_switches(sparse=asked)
        if asked and not self.manifest.sparse:
            raise ConfigError(
                f"sparse vectors were asked for, but the checkpoint {self.manifest.model} has no sparse "
                "head; pass sparse=False"
            )
        return self.manifest.sparse if asked is None else asked

    def tokenize_part(
        self,
        max_length: int | None = None,
        truncate: bool = True,
        *,
        errors: OnBadUnicode = "strict",
        prompt_name: str | None = None,
        unicode: Form | None = None,
    ) -> TokenizePart:
        """A function that tokenizes one part of a stream. Arguments are those of `Embedder.encode`."""
        check_errors(errors)
        choose_form(unicode, EXACT)
        length = self.length(max_length)
        prompt = self.prompt(prompt_name)

        def encode(part: Sequence[object], first: int) -> list[Tokens]:
            checked = [prompt + check_text(text, index, errors) for index, text in enumerate(part, first)]
            return self.tokenizer.encode(
                checked, max_length=length, truncate=truncate, first_index=first, unicode=unicode
            )

        return lambda part, first: encode_each(encode, part, first)

    def run_part(
        self,
        first: int,
        tokenized: Sequence[Tokens | InputError],
        dense: bool,
        sparse: bool,
        dim: int,
        normalize: bool = True,
    ) -> Embeddings:
        """The vectors of one part of a stream. Texts without a result are in `rejected`."""
        tokens = [one for one in tokenized if isinstance(one, Tokens)]
        index = np.array([first + n for n, one in enumerate(tokenized) if isinstance(one, Tokens)], np.int64)
        states = self.engine.run_unchecked([t.ids for t in tokens])
        finite = states.finite()
        rejected = [
            Rejected(first + n, one) for n, one in enumerate(tokenized) if isinstance(one, InputError)
        ]
        rejected += [Rejected(row, NonFiniteOutputError(row)) for row in index[~finite].tolist()]
        good = np.flatnonzero(finite)
        out = self.collect(
            [tokens[row] for row in good],
            states.rows(good),
            dense=dense,
            sparse=sparse,
            dim=dim,
            normalize=normalize,
            index=index[good],
        )
        return replace(out, rejected=tuple(sorted(rejected, key=lambda one: one.index)))

    def score(
        self,
        pairs: Sequence[tuple[str, str]],
        dense_weight: float,
        sparse_weight: float,
        dim: int,
        max_length: int | None,
        prompt_name: str | None = "",
    ) -> Float64:
        """Hybrid scores of pairs, float64 [N]. Arguments are those of `Embedder.score`, already checked."""
        if sparse_weight:
            self.check_sparse(True)
        # A text that is part of several pairs is run once.
        unique = {text: row for row, text in enumerate(dict.fromkeys(itertools.chain.from_iterable(pairs)))}
        tokens = self.tokens(list(unique), max_length, prompt_name=prompt_name)
        try:
            states = self.run(tokens)
        except NonFiniteOutputError as error:
            failed = list(unique)[error.index]
            first = next(index for index, pair in enumerate(pairs) if failed in pair)
            raise NonFiniteOutputError(first, "pairs") from None
        vectors = scoring.cut_and_normalise(states.cls, dim)
        weights = self.weights_by_string(tokens, states) if sparse_weight else [{}] * len(unique)
        rows = [(unique[query], unique[document]) for query, document in pairs]
        if sparse_weight and (found := self._static(tokens)) is not None:
            decode = self.tokenizer.decode
            weights += [sparse.by_string(ids, values, (), decode) for ids, values in found]
            vectors = np.concatenate([vectors, vectors])
            rows = [(len(tokens) + query, document) for query, document in rows]
        return scoring.hybrid_of_pairs(rows, vectors, weights, dense_weight, sparse_weight)

    def queries(self, tokens: Sequence[Tokens], *, dense: bool, sparse: bool, dim: int) -> Embeddings:
        """The second and third step for queries. Their sparse vectors are by the model's table of weights, if
        it has one; the model runs only for what is not."""
        found = self._static(tokens) if sparse else None
        states = self.run(tokens if dense or found is None else [])
        out = self.collect(tokens, states, dense=dense, sparse=sparse and found is None, dim=dim)
        return out if found is None else replace(out, sparse=self._of_table(found))

    def query_vectors(self, tokens: Sequence[Tokens]) -> SparseVectors:
        """Sparse vectors of queries; see `Embedder.encode_queries`."""
        found = self._static(tokens)
        return self._sparse_vectors(tokens, self.run(tokens)) if found is None else self._of_table(found)

    def _of_table(self, found: Sequence[Expansion]) -> SparseVectors:
        vectors = (sparse.sparse_vector(ids, weights, ()) for ids, weights in found)
        return SparseVectors(vectors, self.manifest.architecture.vocab_size)

    def _static(self, tokens: Sequence[Tokens]) -> list[Expansion] | None:
        """Queries by the model's table of weights; None for a model without one."""
        session = self.engine.session
        if not isinstance(session, ExpandingSession) or session.query_weights is None:
            return None
        first, last = len(self.tokenizer.prefix), len(self.tokenizer.suffix)
        return [static_vector(t.ids[first : len(t.ids) - last], session.query_weights) for t in tokens]

    def _sparse_vectors(self, tokens: Sequence[Tokens], states: States) -> SparseVectors:
        vectors = (
            sparse.sparse_vector(ids, w, self.dropped)
            for ids, w in zip(_weighted(tokens, states), states.token_weights, strict=True)
        )
        return SparseVectors(vectors, self.manifest.architecture.vocab_size)


def _weighted(tokens: Sequence[Tokens], states: States) -> list[Int64]:
    """The ids to which the token weights of each text belong."""
    return states.token_ids or [t.ids for t in tokens]
