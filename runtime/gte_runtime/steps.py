"""The steps from texts to vectors, one by one: tokens, run, collect.

`Embedder` puts them together. Benchmarks time them, and the classes of `compat` stop after the second one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from . import scoring, sparse
from .arrays import Int64
from .errors import ConfigError, InputError, NonFiniteOutputError
from .format.manifest import Manifest
from .inference.engine import Engine, States
from .machine.progress import Progress
from .results import Embeddings, Rejected
from .sparse import SparseVectors
from .tokenization import OnBadUnicode, Tokenizer, Tokens, as_texts, check_errors, check_text, choose_length


class Steps:
    """The steps of one embedding model. Safe to use from several threads."""

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer, engine: Engine) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.engine = engine

    @property
    def dim(self) -> int:
        """Length of an uncut dense vector."""
        return self.manifest.architecture.hidden_size

    @property
    def max_length(self) -> int:
        """Tokens the model has positions for, special tokens included."""
        return self.manifest.architecture.max_positions

    def tokens(
        self,
        texts: str | Iterable[str],
        max_length: int = 8192,
        truncate: bool = True,
        *,
        errors: OnBadUnicode = "strict",
        prompt_name: str | None = "",
    ) -> list[Tokens]:
        """The first step of `encode`: texts checked and tokenized, without a prompt unless one is named. Options are those of `encode`."""
        check_errors(errors)
        length = choose_length(max_length, self.tokenizer.specials, self.max_length)
        prompt = self.prompt(prompt_name)
        checked = [prompt + check_text(text, index, errors) for index, text in enumerate(as_texts(texts))]
        return self.tokenizer.encode(checked, max_length=length, truncate=truncate)

    def run(
        self, tokens: Sequence[Tokens], *, token_states: bool = False, show_progress: bool = False
    ) -> States:
        """The second step: what the model gives for tokenized texts, in input order, not normalised.

        Raises:
            NonFiniteOutputError: with the index of the text.
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
        index: Int64 | None = None,
    ) -> Embeddings:
        """The third step: vectors of what the model gave. `index` numbers the rows, by default from 0."""
        return Embeddings(
            dense=scoring.cut_and_normalise(states.cls, dim) if dense else None,
            sparse=self._sparse_vectors(tokens, states) if sparse else None,
            tokens=np.array([len(t.ids) for t in tokens], np.int64),
            truncated=np.array([t.truncated for t in tokens], np.bool_),
            index=np.arange(len(tokens)) if index is None else index,
        )

    def weights_by_string(
        self, tokens: Sequence[Tokens], states: States, key: Callable[[int], str] | None = None
    ) -> list[dict[str, float]]:
        """Token weights under a string for each token: as decoded by itself, or what `key` makes of its id."""
        drop, decode = self.manifest.tokenizer.drop_ids, key or self.tokenizer.decode
        return [
            sparse.by_string(t.ids, w, drop, decode)
            for t, w in zip(tokens, states.token_weights, strict=True)
        ]

    def prompt(self, name: object) -> str:
        """The text of a prompt: None is the model's default one, "" is none. Raises ConfigError for a name that the model lacks."""
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
        """How many values to keep. Warns below what the model was trained for; raises ConfigError outside 1..H."""
        if dim is None:
            return self.dim
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or not 1 <= dim <= self.dim:
            raise ConfigError(f"dim is {repr(dim)[:40]}; expected an integer from 1 to {self.dim}")
        if dim < self.manifest.smallest_dim:
            warnings.warn(
                f"dim={dim} is below {self.manifest.smallest_dim}, the shortest this model was trained for",
                stacklevel=3,
            )
        return int(dim)

    def part(
        self, first: int, tokenized: Sequence[Tokens | InputError], dense: bool, sparse: bool, dim: int
    ) -> Embeddings:
        """One part of a stream: bad texts are named, the others have their rows."""
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
            index=index[good],
        )
        return replace(out, rejected=tuple(sorted(rejected, key=lambda one: one.index)))

    def _sparse_vectors(self, tokens: Sequence[Tokens], states: States) -> SparseVectors:
        drop = self.manifest.tokenizer.drop_ids
        vectors = (
            sparse.sparse_vector(t.ids, w, drop) for t, w in zip(tokens, states.token_weights, strict=True)
        )
        return SparseVectors(vectors, self.manifest.architecture.vocab_size)

    def check_sparse(self, asked: bool | None) -> bool:
        """Whether to give sparse vectors; None means where the checkpoint has a sparse head."""
        if asked and not self.manifest.sparse:
            raise ConfigError(
                f"sparse vectors were asked for, but the checkpoint {self.manifest.model} has no sparse head; pass sparse=False"
            )
        return self.manifest.sparse if asked is None else asked
