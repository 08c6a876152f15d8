"""The class that most programs use: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, overload

from .arrays import Float32, Float64
from .inference.plan import Budget
from .model import Model
from .results import Embeddings
from .scoring import check_weight
from .sparse import SparseVectors
from .steps import Steps
from .streaming import TEXTS_PER_PART, check_stream, in_parts
from .tokenization import (
    Form,
    OnBadUnicode,
    as_pairs,
    check_pair,
    check_switches,
    check_text,
)

if TYPE_CHECKING:
    from .bundle.directory import Verify
    from .results import DenseEmbeddings, HybridEmbeddings, SparseEmbeddings

Texts = str | Iterable[str]


class Options(TypedDict, total=False):
    """Keyword arguments of `encode` that do not decide which vectors it returns: for type checkers."""

    dim: int | None
    max_length: int | None
    truncate: bool
    show_progress: bool
    errors: OnBadUnicode
    prompt_name: str | None
    normalize: bool
    unicode: Form | None


class Embedder(Model):
    """Dense and sparse vectors of one model. Safe to use from several threads. Close it, or use `with`."""

    @cached_property
    def steps(self) -> Steps:
        """The steps of `encode`, for callers that need the results between them."""
        return Steps(self.manifest, self.tokenizer, self.engine)

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
        unicode: Form | None = None,
        verify: Verify = "auto",
        latency: bool = False,
        devices: Sequence[int] = (0,),
        gpu_mem_limit: int | None = None,
    ) -> Embedder:
        """Open a bundle and check that it gives the vectors that are recorded in it.

        Args:
            model: a bundle directory, or the name of a model that ships with the package or was pulled.
            provider: "cpu", "cuda" or "tensorrt". If it is not available, that is an error.
            variant: one of the bundle's; by default its best one for the provider.
            threads: processors to use; by default all that affinity and container quota allow.
            budget: limits of one run in tokens and attention scores.
            encode_special_tokens: treat special tokens such as `</s>` inside a text as plain characters.
            unicode: "NFC" composes texts before they are tokenized, "exact" takes them as they are; None is
                the bundle's default, mostly "exact". See docs/text-forms.md.
            verify: "auto" hashes files that this machine has not checked before, "always" hashes all.
            latency: on CUDA, capture CUDA graphs for small requests; `info` has their shapes and the time.
            devices: GPUs to use, in CUDA's numbering. The texts of one call are spread over them.
            gpu_mem_limit: the most memory to use on each GPU, in bytes, weights included.

        Raises:
            BundleError: missing, changed, or with other vectors than recorded.
            ProviderError: the provider is not available.
            ConfigError: an argument out of range.
        """
        from .opening import open_model  # here, so that `import gte_runtime` stays fast

        return cls(
            *open_model(
                model,
                reranker=False,
                provider=provider,
                variant=variant,
                threads=threads,
                budget=budget,
                encode_special_tokens=encode_special_tokens,
                unicode=unicode,
                verify=verify,
                latency=latency,
                devices=devices,
                gpu_mem_limit=gpu_mem_limit,
            )
        )

    @property
    def dim(self) -> int:
        """Values of a dense vector that is not cut."""
        return self.steps.dim

    @property
    def tolerance(self) -> float:
        """Largest Euclidean distance that a normalised vector may have from the oracle's."""
        return self.engine.variant.tolerance

    @property
    def max_length(self) -> int:
        """Longest text that the model can run, in tokens, special tokens included."""
        return self.steps.max_length

    @overload
    def encode(
        self, texts: Texts, dense: Literal[True] = True, *, sparse: Literal[True], **options: Unpack[Options]
    ) -> HybridEmbeddings: ...
    @overload
    def encode(
        self, texts: Texts, dense: Literal[False], sparse: Literal[True], **options: Unpack[Options]
    ) -> SparseEmbeddings: ...
    @overload
    def encode(
        self,
        texts: Texts,
        dense: Literal[True] = True,
        sparse: bool | None = None,
        **options: Unpack[Options],
    ) -> DenseEmbeddings: ...
    @overload
    def encode(
        self,
        texts: Texts,
        dense: bool = True,
        sparse: bool | None = None,
        dim: int | None = None,
        max_length: int | None = None,
        truncate: bool = True,
        show_progress: bool = False,
        *,
        errors: OnBadUnicode = "strict",
        prompt_name: str | None = None,
        normalize: bool = True,
        unicode: Form | None = None,
    ) -> Embeddings: ...
    def encode(
        self,
        texts: str | Iterable[str],
        dense: bool = True,
        sparse: bool | None = None,
        dim: int | None = None,
        max_length: int | None = None,
        truncate: bool = True,
        show_progress: bool = False,
        *,
        errors: OnBadUnicode = "strict",
        prompt_name: str | None = None,
        normalize: bool = True,
        unicode: Form | None = None,
    ) -> Embeddings:
        """Embed texts.

        Args:
            texts: one string, or any iterable of strings. The empty string has a vector, that of `<s></s>`.
            dense: give dense vectors.
            sparse: give sparse vectors; by default if the checkpoint has a sparse head.
            dim: cut dense vectors to this many values, then normalise; by default as the checkpoint says,
                mostly not at all.
            max_length: most tokens per text, special tokens included; by default as the checkpoint says, at
                most 8192.
            truncate: cut longer texts and report it in `truncated`; False refuses them.
            show_progress: show a progress bar on stderr, if that is a terminal.
            errors: "replace" puts "?" in the place of a lone surrogate (half a pair); "strict" refuses it.
            prompt_name: the prompt of the model to put before every text, such as "query"; by default the
                model's default prompt, which most models do not have. "" is no prompt.
            unicode: as in `open`, for this call; None is what `open` was given.
            normalize: give dense vectors the length 1; False gives them as the model computes them.

        Returns:
            Rows in input order. No texts give shape [0, dim].

        Raises:
            InputError: a text that cannot be embedded; has its index.
            ConfigError: an argument out of range, or sparse=True for a checkpoint without a sparse head.
        """
        check_switches(dense=dense, truncate=truncate, show_progress=show_progress)
        dim, sparse = self.steps.check_dim(dim), self.steps.check_sparse(sparse)
        tokens = self.steps.tokens(
            texts, max_length, truncate, errors=errors, prompt_name=prompt_name, unicode=unicode
        )
        states = self.steps.run(tokens, show_progress=show_progress)
        return self.steps.collect(tokens, states, dense=dense, sparse=sparse, dim=dim, normalize=normalize)

    def stream(
        self,
        texts: Iterable[str],
        dense: bool = True,
        sparse: bool | None = None,
        dim: int | None = None,
        max_length: int | None = None,
        truncate: bool = True,
        *,
        errors: OnBadUnicode = "strict",
        prompt_name: str | None = None,
        normalize: bool = True,
        unicode: Form | None = None,
        texts_per_part: int = TEXTS_PER_PART,
    ) -> Iterator[Embeddings]:
        """Embed any number of texts in bounded memory, part by part, in input order.

        Arguments are those of `encode`, and `texts_per_part`, the texts of one part. A text that cannot be
        embedded does not stop the stream: it is in `rejected`, and `index` says which texts have rows. Two
        parts are read before the first is yielded, since one is tokenized while another runs.
        """
        check_switches(dense=dense, truncate=truncate)
        dim, sparse = self.steps.check_dim(dim), self.steps.check_sparse(sparse)
        tokenize = self.steps.tokenize_part(
            max_length, truncate, errors=errors, prompt_name=prompt_name, unicode=unicode
        )
        run = partial(self.steps.run_part, dense=dense, sparse=sparse, dim=dim, normalize=normalize)
        check_stream(texts, texts_per_part)
        return in_parts(iter(texts), texts_per_part, tokenize, run)

    def token_weights(
        self, texts: str | Iterable[str], max_length: int | None = None
    ) -> list[dict[str, float]]:
        """{decoded token: weight} for each text, as the model's authors publish it.

        Keys are in order of first occurrence. A token that occurs several times has its largest weight.
        Special tokens and weights of 0 are left out.

        Raises:
            ConfigError: the checkpoint has no sparse head.
        """
        self.steps.check_sparse(True)
        tokens = self.steps.tokens(texts, max_length, prompt_name=None)
        return self.steps.weights_by_string(tokens, self.steps.run(tokens))

    def encode_queries(
        self,
        texts: str | Iterable[str],
        max_length: int | None = None,
        *,
        prompt_name: str | None = None,
        unicode: Form | None = None,
    ) -> SparseVectors:
        """Sparse vectors of queries. Arguments are those of `encode`.

        The "doc" models of OpenSearch weight a query's tokens by a table and run no model; for every other
        model these are the sparse vectors of `encode`.

        Raises:
            InputError: a text that cannot be embedded; has its index.
            ConfigError: the checkpoint has no sparse head.
        """
        self.steps.check_sparse(True)
        tokens = self.steps.tokens(texts, max_length, prompt_name=prompt_name, unicode=unicode)
        return self.steps.query_vectors(tokens)

    def token_vectors(
        self, texts: str | Iterable[str], max_length: int | None = None, truncate: bool = True
    ) -> list[Float32]:
        """States of all tokens after the last layer, special tokens included: float32 [n, H] for n tokens.

        They are not normalised. Where the pooling is cls, row 0 is, bit for bit, what `encode` cuts and
        normalises. A text of 8192 tokens takes 25 MB at H = 768, and all texts are held at once. `tokenize`
        says what the tokens are.

        Raises:
            InputError: a text that is refused, or too long with truncate=False; has its index.
            ConfigError: an argument out of range, or a bundle whose graph gives no states: build it again.
        """
        tokens = self.steps.tokens(texts, max_length, truncate, prompt_name=None)
        return self.steps.run(tokens, token_states=True).token_states

    def score(
        self,
        pairs: Iterable[tuple[str, str]],
        dense_weight: float = 1.0,
        sparse_weight: float = 0.1,
        *,
        dim: int | None = None,
        max_length: int | None = None,
        prompt_name: str | None = None,
    ) -> Float64:
        """Hybrid scores of (query, document) pairs, float64 [N].

        dense_weight x cosine + sparse_weight x sum of the products of weights over shared tokens. Tokens with
        the same string are shared, as in the authors' script. A part with weight 0 is not computed, so dense
        scores need no sparse head.

        Args:
            pairs: (query, document).
            dense_weight: factor of the cosine.
            sparse_weight: factor of the sum. The authors' script uses 0.1, their model card 0.3.
            dim: cut dense vectors to this many values, then normalise.
            max_length: most tokens per text, special tokens included.
            prompt_name: the prompt to put before both texts of every pair, as in `encode`.

        Raises:
            InputError: not a pair of strings; has the index of the pair.
            ConfigError: an argument out of range, or a sparse weight for a checkpoint without a sparse head.
        """
        dense = check_weight(dense_weight, "dense_weight")
        sparse = check_weight(sparse_weight, "sparse_weight")
        checked = [check_pair(pair, index) for index, pair in enumerate(as_pairs(pairs))]
        return self.steps.score(checked, dense, sparse, self.steps.check_dim(dim), max_length, prompt_name)

    def states(
        self, texts: str | Iterable[str], dim: int | None = None, max_length: int | None = None
    ) -> Float32:
        """What `encode` normalises, cut to `dim`: float32 [N, dim]. With the pooling cls, states of the first
        tokens."""
        dim = self.steps.check_dim(dim)
        return self.steps.run(self.steps.tokens(texts, max_length, prompt_name=None)).cls[:, :dim]

    def tokenize(
        self, text: str, max_length: int | None = None, *, prompt_name: str | None = None
    ) -> list[tuple[int, str]]:
        """The tokens of one text as the model gets them, with its prompt: (token id, decoded token)."""
        length, prompt = self.steps.length(max_length), self.steps.prompt(prompt_name)
        tokens = self.tokenizer.encode([prompt + check_text(text, None)], max_length=length)[0]
        return [(token, self.tokenizer.decode(token)) for token in tokens.ids.tolist()]
