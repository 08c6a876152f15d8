"""Texts in, vectors out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import scoring
from .arrays import Float32
from .errors import ConfigError, InputError, NonFiniteOutputError
from .format.manifest import Manifest
from .inference.engine import Engine
from .inference.plan import Budget
from .results import Embeddings
from .steps import Steps
from .streaming import in_parts
from .tokenization import (
    OnBadUnicode,
    Tokenizer,
    Tokens,
    as_pairs,
    check_errors,
    check_pair,
    check_text,
    choose_length,
    encode_each,
)

if TYPE_CHECKING:
    from .bundle.directory import Verify

STREAM_TEXTS = 256
"""Texts of one part of a stream: enough to sort by length, little enough to hold."""


class Embedder:
    """Dense and sparse vectors of one model. Safe to use from several threads; close it, or use it in a `with`."""

    def __init__(
        self, manifest: Manifest, tokenizer: Tokenizer, engine: Engine, info: dict[str, Any] | None = None
    ) -> None:
        """Put an embedder together from its parts. `Embedder.open` does this for a bundle on disk."""
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.engine = engine
        self.steps = Steps(manifest, tokenizer, engine)
        """What `encode` does, step by step."""
        self.info = info or {}
        """How it runs: bundle, variant, provider, threads, and whether the batch changes a text's bits. For people and logs."""

    @classmethod
    def open(
        cls,
        model: str | Path = "gte-mini",
        *,
        provider: str = "cpu",
        variant: str | None = None,
        threads: int | None = None,
        budget: Budget | None = None,
        encode_special_tokens: bool = False,
        verify: Verify = "auto",
        latency: bool = False,
        devices: Sequence[int] = (0,),
        gpu_mem_limit: int | None = None,
    ) -> Embedder:
        """Open a bundle and prove that it runs.

        Args:
            model: a bundle directory, or the name of a model that ships with the package or was pulled from the hub.
            provider: "cpu", "cuda" or "tensorrt". What is not there is an error, never another provider.
            variant: one of the bundle's; by default the best it has for the provider.
            threads: of one run; by default all that affinity and container quota grant.
            budget: limits of one run in tokens and attention scores.
            encode_special_tokens: read `</s>` inside a text as plain characters.
            verify: "auto" hashes files that this machine has not seen, "always" hashes all of them.
            latency: on CUDA, capture CUDA graphs for small requests; `info` says which, and how long it took.
            devices: GPUs to use, as CUDA counts them. Texts of one call are spread over them.
            gpu_mem_limit: bytes that each GPU may give, weights included.

        Raises:
            BundleError: missing, changed, or not what it promises.
            ProviderError: a provider that is not there.
            ConfigError: a parameter out of range.
        """
        from .opening import (
            open_model,  # a program that only imports the package does not load what opening needs
        )

        return cls(
            *open_model(
                model,
                reranker=False,
                provider=provider,
                variant=variant,
                threads=threads,
                budget=budget,
                encode_special_tokens=encode_special_tokens,
                verify=verify,
                latency=latency,
                devices=devices,
                gpu_mem_limit=gpu_mem_limit,
            )
        )

    @property
    def dim(self) -> int:
        """Length of an uncut dense vector."""
        return self.steps.dim

    @property
    def tolerance(self) -> float:
        """Largest Euclidean distance of a normalised vector to the oracle's."""
        return self.engine.variant.tolerance

    @property
    def max_length(self) -> int:
        """Tokens the model has positions for, special tokens included."""
        return self.steps.max_length

    def encode(
        self,
        texts: str | Iterable[str],
        dense: bool = True,
        sparse: bool | None = None,
        dim: int | None = None,
        max_length: int = 8192,
        truncate: bool = True,
        show_progress: bool = False,
        *,
        errors: OnBadUnicode = "strict",
        prompt_name: str | None = None,
    ) -> Embeddings:
        """Embed texts.

        Args:
            texts: one string, or any iterable of strings. The empty string has a vector, that of `<s></s>`.
            dense: give dense vectors.
            sparse: give sparse vectors; by default when the checkpoint has a sparse head.
            dim: cut dense vectors to this many values, then normalise.
            max_length: tokens per text, special tokens included.
            truncate: cut longer texts and report it; False refuses them.
            show_progress: a progress bar on stderr, if that is a terminal.
            errors: "replace" puts "?" where a string holds half a surrogate pair; "strict" refuses it.
            prompt_name: put this prompt of the model before every text, such as "query"; by default the model's
                default prompt, which most do not have. "" is none.

        Returns:
            Rows in input order. An empty list gives shape [0, dim].

        Raises:
            InputError: with the index of the text.
            ConfigError: a parameter out of range, or sparse=True for a checkpoint without a sparse head.
        """
        dim, sparse = self.steps.check_dim(dim), self.steps.check_sparse(sparse)
        tokens = self.steps.tokens(texts, max_length, truncate, errors=errors, prompt_name=prompt_name)
        states = self.steps.run(tokens, show_progress=show_progress)
        return self.steps.collect(tokens, states, dense=dense, sparse=sparse, dim=dim)

    def stream(
        self,
        texts: Iterable[str],
        dense: bool = True,
        sparse: bool | None = None,
        dim: int | None = None,
        max_length: int = 8192,
        truncate: bool = True,
        *,
        errors: OnBadUnicode = "strict",
        prompt_name: str | None = None,
        texts_per_part: int = STREAM_TEXTS,
    ) -> Iterator[Embeddings]:
        """Embed any number of texts in bounded memory, in input order, part by part.

        One bad text does not fail its neighbours: it is named in `rejected`, and `index` says which
        rows are left. Options are those of `encode`. Two parts of `texts_per_part` texts are read
        before the first is given, since one is tokenized while another runs.
        """
        dim, sparse = self.steps.check_dim(dim), self.steps.check_sparse(sparse)
        check_errors(errors)
        length = choose_length(max_length, self.tokenizer.specials, self.max_length)
        if isinstance(texts, (str, bytes, dict)) or not isinstance(texts, Iterable):
            raise InputError(
                f"expected an iterable of strings, found {type(texts).__name__}", got=type(texts).__name__
            )
        if isinstance(texts_per_part, bool) or not isinstance(texts_per_part, int) or texts_per_part < 1:
            raise ConfigError(f"texts_per_part is {texts_per_part!r}; expected an integer of at least 1")
        prompt = self.steps.prompt(prompt_name)

        def encode(part: Sequence[object], first: int) -> list[Tokens]:
            checked = [prompt + check_text(text, index, errors) for index, text in enumerate(part, first)]
            return self.tokenizer.encode(checked, max_length=length, truncate=truncate, first_index=first)

        def run(first: int, tokenized: list[Tokens | InputError]) -> Embeddings:
            return self.steps.part(first, tokenized, dense, sparse, dim)

        return in_parts(
            iter(texts), texts_per_part, lambda part, first: encode_each(encode, part, first), run
        )

    def token_weights(self, texts: str | Iterable[str], max_length: int = 8192) -> list[dict[str, float]]:
        """{decoded token: weight} for each text, as the model's authors publish it.

        Keys are strings in order of first occurrence, values the largest weight per key; special
        tokens and weights of 0 are left out.

        Raises:
            ConfigError: the checkpoint has no sparse head.
        """
        self.steps.check_sparse(True)
        tokens = self.steps.tokens(texts, max_length)
        return self.steps.weights_by_string(tokens, self.steps.run(tokens))

    def token_vectors(
        self, texts: str | Iterable[str], max_length: int = 8192, truncate: bool = True
    ) -> list[Float32]:
        """States of all tokens of each text after the last layer, special tokens included: float32 [n, H] for n tokens.

        Not normalised; row 0 is what `encode` cuts and normalises, to the same bits. A text of 8192 tokens has
        25 MB of them at a width of 768, and they are all held at once. What the tokens are, `tokenize` says.

        Raises:
            InputError: with the index of the text; one over `max_length` with truncate=False.
            ConfigError: a parameter out of range, or a bundle from before graphs gave states: build it again.
        """
        tokens = self.steps.tokens(texts, max_length, truncate)
        return self.steps.run(tokens, token_states=True).token_states

    def score(
        self,
        pairs: Iterable[tuple[str, str]],
        dense_weight: float = 1.0,
        sparse_weight: float = 0.1,
        *,
        dim: int | None = None,
        max_length: int = 8192,
    ) -> NDArray[np.float64]:
        """Hybrid scores of (query, document) pairs, float64 [N].

        dense_weight x cosine + sparse_weight x sum of products over shared tokens. Tokens are shared
        by their string, as in the authors' script. A weight of 0 leaves its part out, so dense scores
        need no sparse head.

        Raises:
            InputError: not a pair of strings; the index is the pair's.
        """
        dense_weight, sparse_weight = (
            _check_weight(dense_weight, "dense_weight"),
            _check_weight(sparse_weight, "sparse_weight"),
        )
        checked = [check_pair(pair, index) for index, pair in enumerate(as_pairs(pairs))]
        dim = self.steps.check_dim(dim)
        if sparse_weight:
            self.steps.check_sparse(True)
        # A text that is part of many pairs is run once.
        unique = {text: row for row, text in enumerate(dict.fromkeys(itertools.chain.from_iterable(checked)))}
        tokens = self.steps.tokens(list(unique), max_length)
        try:
            states = self.steps.run(tokens)
        except NonFiniteOutputError as error:
            raise NonFiniteOutputError(
                _first_pair_with(list(unique)[error.index], checked), "pairs"
            ) from None
        vectors = scoring.cut_and_normalise(states.cls, dim)
        weights = self.steps.weights_by_string(tokens, states) if sparse_weight else [{}] * len(unique)
        rows = [(unique[query], unique[document]) for query, document in checked]
        return scoring.hybrid_of_pairs(rows, vectors, weights, dense_weight, sparse_weight)

    def states(self, texts: str | Iterable[str], dim: int | None = None, max_length: int = 8192) -> Float32:
        """States of the first tokens cut to `dim`, not normalised, float32 [N, dim]."""
        dim = self.steps.check_dim(dim)
        return self.steps.run(self.steps.tokens(texts, max_length)).cls[:, :dim]

    def tokenize(self, text: str, max_length: int = 8192) -> list[tuple[int, str]]:
        """The tokens of one text as run: (id, piece as decoded by itself)."""
        length = choose_length(max_length, self.tokenizer.specials, self.max_length)
        tokens = self.tokenizer.encode([check_text(text, None)], max_length=length)[0]
        return [(token, self.tokenizer.decode(token)) for token in tokens.ids.tolist()]

    def close(self) -> None:
        """Stop what runs and give memory back."""
        self.engine.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _first_pair_with(text: str, pairs: Sequence[tuple[str, str]]) -> int:
    return next(index for index, pair in enumerate(pairs) if text in pair)


def _check_weight(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not np.isfinite(value):
        raise ConfigError(f"{name} is {str(value)[:40]}; expected a finite number")
    return float(value)
