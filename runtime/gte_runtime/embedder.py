"""Texts in, vectors out: tokenize, plan, run, collect."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import scoring, sparse
from .arrays import Float32, Int64
from .device.runtime import PROVIDERS
from .errors import ConfigError, InputError, NonFiniteOutputError
from .inference.batch import make_batch
from .inference.cost import COSTS, Cost
from .inference.plan import Budget, plan_runs
from .inference.session import Session
from .inference.side_by_side import run_all
from .machine.progress import Progress
from .machine.threads import thread_count
from .sparse import SparseVectors
from .tokenization import OnBadUnicode, Tokenizer, Tokens, as_pairs, as_texts, check_errors, check_pair, check_text, choose_length

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .bundle.directory import Bundle, Verify
    from .device.cuda import CudaOptions
    from .format.manifest import Manifest, Variant
from .results import Embeddings, Rejected

Lap = Callable[[str], None]

STREAM_TEXTS = 256
"""Texts of one part of a stream: enough to sort by length, little enough to hold."""

VARIANTS = {
    "cpu": ("cpu-fp32", "cpu-int8", "portable-fp32"),
    "cuda": ("cuda-fp16", "portable-fp16", "portable-fp32"),
    "tensorrt": ("portable-fp16",),
}
"""Variants in order of preference where none is named. TensorRT would round float32 products to 10 bits."""

PACKED_BUDGET = Budget(max_tokens=32768)
"""Of a run on a GPU: 0.6 GB of activations for gte-multilingual-base. Attention holds no scores there.

On an H100 twice as many tokens a run are 0 to 5 % faster, half as many 5 to 9 % slower (NOTES-gpu.md)."""


@dataclass(frozen=True, slots=True, eq=False)
class _States:
    """What the model says of N texts, before anything is cut or dropped."""

    cls: Float32
    weights: Sequence[Float32]
    tokens: Sequence[Tokens]
    vectors: Sequence[Float32] = ()
    """Of all tokens of each text, where they were asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Texts of a stream on their way."""

    tokens: list[Tokens]
    kept: list[int]
    """Positions in the stream of the texts that have tokens."""
    rejected: list[Rejected]


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is made of, for a host that schedules runs by itself, as the server does."""

    tokenizer: Tokenizer
    session: Session
    variant: Variant
    budget: Budget
    cost: Cost


class Embedder:
    """Dense and sparse vectors of one model. Safe to use from several threads; close it, or use it in a `with`."""

    def __init__(
        self,
        manifest: Manifest,
        variant: Variant,
        tokenizer: Tokenizer,
        session: Session,
        *,
        budget: Budget | None = None,
        cost: Cost = Cost(),
    ) -> None:
        """Put an engine together from its parts. `Embedder.open` does this for a bundle on disk."""
        self.manifest = manifest
        self._variant = variant
        self._tokenizer = tokenizer
        self._session = session
        self._budget = budget or (PACKED_BUDGET if variant.batch == "packed" else Budget())
        self._cost = cost
        self.info: dict[str, Any] = {}
        """How this engine runs: bundle, variant, provider, threads, and whether company changes a text's bits."""

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
        # Here, so that a program which only imports the package does not pay for what opening needs.
        from .bundle.directory import Bundle
        from .bundle.load import load
        from .catalog.locate import locate

        if provider not in PROVIDERS:
            raise ConfigError(f"provider is {provider!r}; expected one of {', '.join(PROVIDERS)}")
        if verify not in ("auto", "always"):
            raise ConfigError(f"verify is {verify!r}; expected 'auto' or 'always'")
        count = thread_count(threads)
        bundle = Bundle.open(locate(model, variant or VARIANTS[provider][0]))
        if bundle.manifest.reranker:
            raise ConfigError(
                f"{bundle.manifest.model} is a reranker, which scores pairs and has no vectors; use Reranker.open, or `gte rerank`"
            )
        name = variant or preferred(bundle, provider)
        chosen = bundle.variant(name)
        gpu = None
        if provider != "cpu" or latency or tuple(devices) != (0,) or gpu_mem_limit is not None:
            gpu = _gpu_options(provider, tuple(devices), gpu_mem_limit, latency)
        session, tokenizer, invariance = load(
            bundle, name, provider=provider, threads=count, encode_special_tokens=encode_special_tokens, verify=verify, gpu=gpu
        )
        engine = cls(bundle.manifest, chosen, tokenizer, session, budget=budget, cost=COSTS.get(name, Cost()))
        engine.info = {
            "model": bundle.manifest.model,
            "bundle": bundle.digest[:12],
            "variant": name,
            "provider": provider,
            "threads": count,
            **invariance.facts(),
        }
        if gpu is not None:
            engine.info["devices"] = list(gpu.devices)
        if latency:
            engine.info["cuda_graphs"] = session.report()  # type: ignore[attr-defined]  # only a CudaSession was asked for them
        return engine

    @property
    def parts(self) -> Parts:
        return Parts(self._tokenizer, self._session, self._variant, self._budget, self._cost)

    @property
    def dim(self) -> int:
        """Length of an uncut dense vector."""
        return self.manifest.architecture.hidden_size

    @property
    def tolerance(self) -> float:
        """Largest Euclidean distance of a normalised vector to the oracle's."""
        return self._variant.tolerance

    @property
    def max_length(self) -> int:
        """Tokens the model has positions for, special tokens included."""
        return self.manifest.architecture.max_positions

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
        dim, sparse, max_length = self._check_options(dim, sparse, max_length, errors)
        prompt = self._prompt(prompt_name)
        checked = [prompt + check_text(text, index, errors) for index, text in enumerate(as_texts(texts))]
        tokens = self._tokenizer.encode(checked, max_length=max_length, truncate=truncate)
        states = self._run(tokens, show_progress)
        return self._embeddings(states, np.arange(len(tokens)), dense, sparse, dim)

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
        dim, sparse, max_length = self._check_options(dim, sparse, max_length, errors)
        if isinstance(texts, (str, bytes, dict)) or not isinstance(texts, Iterable):
            raise InputError(f"expected an iterable of strings, found {type(texts).__name__}", got=type(texts).__name__)
        if isinstance(texts_per_part, bool) or not isinstance(texts_per_part, int) or texts_per_part < 1:
            raise ConfigError(f"texts_per_part is {texts_per_part!r}; expected an integer of at least 1")
        prompt = self._prompt(prompt_name)
        asked = (prompt + text if isinstance(text, str) else text for text in texts) if prompt else iter(texts)
        return self._parts(asked, dense, sparse, dim, max_length, truncate, errors, texts_per_part)

    def _parts(
        self, texts: Iterator[object], dense: bool, sparse: bool, dim: int, max_length: int, truncate: bool, errors: OnBadUnicode, size: int
    ) -> Iterator[Embeddings]:
        """While one part runs, the next one is tokenized. The caller's iterator is asked in the caller's thread."""
        from concurrent.futures import ThreadPoolExecutor  # brings logging along; only streams pay for it

        failure: Exception | None = None
        ahead: deque[Future[_Part]] = deque()
        start = 0
        with ThreadPoolExecutor(1, thread_name_prefix="gte-tokenize") as tokenizing:
            while failure is None or ahead:
                part: list[object] = []
                try:
                    part.extend(itertools.islice(texts, size if failure is None else 0))
                except Exception as error:  # noqa: BLE001 - what came before is given first
                    failure = error
                if part:
                    ahead.append(tokenizing.submit(self._tokenize_part, part, start, max_length, truncate, errors))
                    start += len(part)
                if not ahead:
                    break
                if len(ahead) > 1 or not part:
                    yield self._run_part(ahead.popleft().result(), dense, sparse, dim)
        if failure is not None:
            raise failure

    def _tokenize_part(self, texts: Sequence[object], start: int, max_length: int, truncate: bool, errors: OnBadUnicode) -> _Part:
        """All texts of a part at once, and one by one only if one of them is refused."""
        try:
            checked = [check_text(text, index, errors) for index, text in enumerate(texts, start)]
            tokens = self._tokenizer.encode(checked, max_length=max_length, truncate=truncate, first_index=start)
            return _Part(tokens, list(range(start, start + len(texts))), [])
        except InputError:
            pass
        part = _Part([], [], [])
        for index, text in enumerate(texts, start):
            try:
                one = [check_text(text, index, errors)]
                part.tokens.extend(self._tokenizer.encode(one, max_length=max_length, truncate=truncate, first_index=index))
                part.kept.append(index)
            except InputError as error:
                part.rejected.append(Rejected(index, error))
        return part

    def _run_part(self, part: _Part, dense: bool, sparse: bool, dim: int) -> Embeddings:
        states, finite = self._finite(self._run(part.tokens, check=False))
        failed = [Rejected(part.kept[row], NonFiniteOutputError(part.kept[row])) for row in np.flatnonzero(~finite)]
        out = self._embeddings(states, np.array(part.kept, np.int64)[finite], dense, sparse, dim)
        return replace(out, rejected=tuple(sorted(part.rejected + failed, key=lambda r: r.index)))

    def token_weights(self, texts: str | Iterable[str], max_length: int = 8192) -> list[dict[str, float]]:
        """{decoded token: weight} for each text, as the model's authors publish it.

        Keys are strings in order of first occurrence, values the largest weight per key; special
        tokens and weights of 0 are left out.

        Raises:
            ConfigError: the checkpoint has no sparse head.
        """
        return self._by_key(self._states(texts, max_length, sparse=True))

    def token_vectors(self, texts: str | Iterable[str], max_length: int = 8192, truncate: bool = True) -> list[Float32]:
        """States of all tokens of each text after the last layer, special tokens included: float32 [n, H] for n tokens.

        Not normalised; row 0 is what `encode` cuts and normalises, to the same bits. A text of 8192 tokens has
        25 MB of them at a width of 768, and they are all held at once. What the tokens are, `tokenize` says.

        Raises:
            InputError: with the index of the text; one over `max_length` with truncate=False.
            ConfigError: a parameter out of range, or a bundle from before graphs gave states: build it again.
        """
        _, _, max_length = self._check_options(None, None, max_length, "strict")
        checked = [check_text(text, index) for index, text in enumerate(as_texts(texts))]
        tokens = self._tokenizer.encode(checked, max_length=max_length, truncate=truncate)
        return list(self._run(tokens, states=True).vectors)

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
        dense_weight, sparse_weight = _check_weight(dense_weight, "dense_weight"), _check_weight(sparse_weight, "sparse_weight")
        checked = [check_pair(pair, index) for index, pair in enumerate(as_pairs(pairs))]
        dim, _, max_length = self._check_options(dim, sparse_weight != 0 or None, max_length, "strict")
        # A text that stands in many pairs is run once.
        unique = {text: row for row, text in enumerate(dict.fromkeys(itertools.chain.from_iterable(checked)))}
        try:
            states = self._run(self._tokenizer.encode(list(unique), max_length=max_length))
        except NonFiniteOutputError as error:
            raise NonFiniteOutputError(_first_pair_with(list(unique)[error.index], checked), "pairs") from None
        vectors = scoring.cut_and_normalise(states.cls, dim)
        weights = self._by_key(states) if sparse_weight else []
        scores = np.zeros(len(checked))
        for row, (query, document) in enumerate(checked):
            q, d = unique[query], unique[document]
            cosine = float(vectors[q] @ vectors[d]) if dense_weight else 0.0
            shared = scoring.lexical(weights[q], weights[d]) if sparse_weight else 0.0
            scores[row] = scoring.hybrid(cosine, shared, dense_weight, sparse_weight)
        return scores

    def states(self, texts: str | Iterable[str], dim: int | None = None, max_length: int = 8192) -> Float32:
        """States of the first tokens cut to `dim`, not normalised, float32 [N, dim]."""
        return self._states(texts, max_length, sparse=None, dim=dim).cls

    def tokenize(self, text: str, max_length: int = 8192) -> list[tuple[int, str]]:
        """The tokens of one text as run: (id, piece as decoded by itself)."""
        max_length = choose_length(max_length, self._tokenizer.specials, self.max_length)
        tokens = self._tokenizer.encode([check_text(text, None)], max_length=max_length)[0]
        return [(token, self._tokenizer.decode(token)) for token in tokens.ids.tolist()]

    def close(self) -> None:
        """Stop what runs and give memory back."""
        self._session.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _states(
        self, texts: str | Iterable[str], max_length: int, sparse: bool | None, dim: int | None = None, show_progress: bool = False
    ) -> _States:
        """One pass, for whoever wants vectors and weights in another shape than `encode` gives; `cls` is cut to `dim`."""
        dim, _, max_length = self._check_options(dim, sparse, max_length, "strict")
        checked = [check_text(text, index) for index, text in enumerate(as_texts(texts))]
        states = self._run(self._tokenizer.encode(checked, max_length=max_length), show_progress)
        return replace(states, cls=states.cls[:, :dim])

    def _run(
        self,
        tokens: Sequence[Tokens],
        show_progress: bool = False,
        check: bool = True,
        lap: Lap = lambda stage: None,
        *,
        states: bool = False,
    ) -> _States:
        """Run tokenized texts. `lap` is told when a stage ends."""
        ids = [t.ids for t in tokens]
        cls = np.zeros((len(tokens), self.dim), np.float32)
        weights: list[Float32] = [np.zeros(0, np.float32)] * len(tokens)
        vectors: list[Float32] = [np.zeros((0, self.dim), np.float32)] * len(tokens) if states else []
        groups, wide = self._plan([len(row) for row in ids])
        batches = [partial(make_batch, rows, ids, self._variant.flash_from) for rows in groups]
        lap("plan")
        with Progress(len(tokens), show_progress) as advance:
            for index, batch, outputs in run_all(self._session, batches, wide, states=states):
                lap("run")
                rows = groups[index]
                cls[rows] = outputs.cls
                for row, part in zip(rows.tolist(), np.split(outputs.token_weights, batch.cu_seqlens[1:-1]), strict=True):
                    weights[row] = part
                if states:
                    for row, rows_of in zip(rows.tolist(), np.split(outputs.token_states, batch.cu_seqlens[1:-1]), strict=True):
                        vectors[row] = rows_of
                advance(len(rows))
                lap("collect")
        found = _States(cls, weights, tokens, vectors)
        if check and not (finite := self._finite(found)[1]).all():
            raise NonFiniteOutputError(int(np.flatnonzero(~finite)[0]))
        return found

    def _plan(self, lengths: Sequence[int]) -> tuple[list[Int64], int]:
        on_cpu = self.info.get("provider", "cpu") == "cpu"
        return plan_runs(lengths, self._variant.batch, self._variant.flash_from, self._budget, self._session.workers, self._cost, on_cpu)

    def _finite(self, states: _States) -> tuple[_States, NDArray[np.bool_]]:
        """The texts whose outputs are finite, and which they are. A zero vector has no direction either."""
        finite = np.isfinite(states.cls).all(axis=1) & states.cls.any(axis=1)
        finite &= np.array([np.isfinite(weights).all() for weights in states.weights], np.bool_)
        if states.vectors:
            finite &= np.array([np.isfinite(vectors).all() for vectors in states.vectors], np.bool_)
        if finite.all():
            return states, finite
        rows = np.flatnonzero(finite).tolist()
        return _States(states.cls[finite], [states.weights[r] for r in rows], [states.tokens[r] for r in rows]), finite

    def _embeddings(self, states: _States, index: Int64, dense: bool, want_sparse: bool, dim: int) -> Embeddings:
        drop = self.manifest.tokenizer.drop_ids
        vectors = (sparse.sparse_vector(t.ids, w, drop) for t, w in zip(states.tokens, states.weights, strict=True))
        return Embeddings(
            dense=scoring.cut_and_normalise(states.cls, dim) if dense else None,
            sparse=SparseVectors(vectors, self.manifest.architecture.vocab_size) if want_sparse else None,
            tokens=np.array([len(t.ids) for t in states.tokens], np.int64),
            truncated=np.array([t.truncated for t in states.tokens], np.bool_),
            index=index,
        )

    def _by_key(self, states: _States, key: Callable[[int], str] | None = None) -> list[dict[str, float]]:
        """Token weights under a string for each token: as decoded by itself, or what `key` says."""
        drop, decode = self.manifest.tokenizer.drop_ids, key or self._tokenizer.decode
        return [sparse.by_string(t.ids, w, drop, decode) for t, w in zip(states.tokens, states.weights, strict=True)]

    def _check_options(self, dim: object, want_sparse: bool | None, max_length: object, errors: str) -> tuple[int, bool, int]:
        if want_sparse and not self.manifest.sparse:
            raise ConfigError(
                f"sparse vectors were asked for, but the checkpoint {self.manifest.model} has no sparse head; pass sparse=False"
            )
        check_errors(errors)
        length = choose_length(max_length, self._tokenizer.specials, self.max_length)
        return self._check_dim(dim), self.manifest.sparse if want_sparse is None else want_sparse, length

    def _prompt(self, name: object) -> str:
        prompts = self.manifest.prompts
        if name is None:
            name = self.manifest.default_prompt
        if name == "":
            return ""
        if not isinstance(name, str) or name not in prompts:
            known = f"its prompts are {', '.join(prompts)}" if prompts else "it has none"
            raise ConfigError(f"{self.manifest.model} has no prompt {repr(name)[:80]}; {known}")
        return prompts[name]

    def _check_dim(self, dim: object) -> int:
        if dim is None:
            return self.dim
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or not 1 <= dim <= self.dim:
            raise ConfigError(f"dim is {repr(dim)[:40]}; expected an integer from 1 to {self.dim}")
        if dim < self.manifest.smallest_dim:
            warnings.warn(f"dim={dim} is below {self.manifest.smallest_dim}, the shortest this model was trained for", stacklevel=4)
        return int(dim)


def _gpu_options(provider: str, devices: tuple[int, ...], memory: int | None, latency: bool) -> CudaOptions:
    from .device.cuda import CudaOptions

    if provider == "cpu":
        raise ConfigError("latency, devices and gpu_mem_limit are for provider='cuda'")
    if latency and provider != "cuda":
        raise ConfigError("latency=True is for provider='cuda'; TensorRT's engines are made by `gte engine build`")
    return CudaOptions(devices=devices, memory=memory, latency=latency)


def preferred(bundle: Bundle, provider: str) -> str:
    """The best variant a bundle has for a provider; raises ConfigError when it has none."""
    for name in VARIANTS[provider]:
        if name in bundle.manifest.variants:
            return name
    raise ConfigError(
        f"the bundle has no variant for provider {provider!r} (it has {', '.join(bundle.manifest.variants)}); "
        f"name one with variant=, or build one of {', '.join(VARIANTS[provider])}"
    )


def _first_pair_with(text: str, pairs: Sequence[tuple[str, str]]) -> int:
    return next(index for index, pair in enumerate(pairs) if text in pair)


def _check_weight(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not np.isfinite(value):
        raise ConfigError(f"{name} is {str(value)[:40]}; expected a finite number")
    return float(value)
