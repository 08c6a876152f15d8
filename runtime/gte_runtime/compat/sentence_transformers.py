"""SentenceTransformer of sentence-transformers, on a bundle; with numpy arrays where the original returns
tensors.

Compared with sentence-transformers 6.2.0. What differs:

- `similarity` returns a numpy array, unless it is given tensors.
- `output_value="token_embeddings"` returns arrays too, unless tensors are requested.
- An empty list gives shape [0, dim]; the original's array has no second axis.
- The default device is the CPU, and there are no process pools: one call uses all processors.
- `batch_size` has no effect. Texts are batched by length, within a budget of tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..embedder import Embedder
from ..errors import ConfigError
from ..format.manifest import SIMILARITIES
from ..scoring import cut, cut_and_normalise, each_with_each, pairwise
from ..tokenization import Form, as_texts, check_text
from .arguments import check_batch_size, refuse, warn_without_effect
from .device import provider_of
from .precision import check_precision, quantize
from .prompts import DOCUMENT_NAMES, resolve
from .surface import NO_POOLS, Surface
from .tensors import as_rows, as_torch, is_tensor

logger = logging.getLogger(__name__)


class SentenceTransformer(Surface):
    """The constructor of the original, and those of its methods that embed text."""

    def __init__(
        self,
        model_name_or_path: str | Path = "gte-mini",
        *,
        modules: object = None,
        device: object = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        use_auth_token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: object = None,
        backend: str = "torch",
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        variant: str | None = None,
        threads: int | None = None,
        unicode: Form | None = None,
    ) -> None:
        """Open a bundle.

        Args:
            model_name_or_path: a bundle directory, or the name of a model.
            modules: refused; a bundle is a complete model.
            device: None or "cpu", or "cuda".
            prompts: prompts by name; they replace the model's own of the same name. "query" and "document"
                exist always, empty unless the model or the caller sets them.
            default_prompt_name: the prompt of calls that name none; by default the model's.
            cache_folder, trust_remote_code, local_files_only, token, use_auth_token, model_card_data:
                accepted, without effect; nothing is downloaded, and no remote code is run.
            revision: refused; a bundle has one revision.
            model_kwargs, config_kwargs, backend: accepted with a warning.
            processor_kwargs: "model_max_length" is the length at which texts are cut, in tokens; anything
                else leads to a warning.
            similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; by default the checkpoint's.
            truncate_dim: cut vectors to this many values; by default as the checkpoint says.
            tokenizer_kwargs: the older name of processor_kwargs.
            variant: not in the original; a variant of the bundle.
            threads: not in the original; processors to use, as in `Embedder.open`.
            unicode: not in the original; "NFC" composes texts first, as in `Embedder.open`.
        """
        refuse({"modules": modules}, "a bundle is one whole model; name a bundle")
        refuse({"revision": revision}, "a bundle is of one revision; build or pull the one you want")
        processor = dict(processor_kwargs or tokenizer_kwargs or {})
        length = processor.pop("model_max_length", None)
        other_backend = {"backend": backend} if backend != "torch" else {}
        warn_without_effect(
            {
                "model_kwargs": model_kwargs,
                "config_kwargs": config_kwargs,
                "processor_kwargs": processor,
                **other_backend,
            }
        )
        self._similarity = ""
        self.similarity_fn_name = "cosine" if similarity_fn_name is None else similarity_fn_name
        self._provider = provider_of(device)
        self.embedder = Embedder.open(
            model_name_or_path, provider=self._provider, variant=variant, threads=threads, unicode=unicode
        )
        manifest = self.embedder.manifest
        if similarity_fn_name is None:
            self.similarity_fn_name = manifest.similarity
        self.truncate_dim = manifest.truncate_dim or None if truncate_dim is None else truncate_dim
        self.prompts = {"query": "", "document": "", **manifest.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or manifest.default_prompt or None
        resolve(self.prompts, None, None, self.default_prompt_name)
        self.max_seq_length: int = self.embedder.steps.length(None) if length is None else length

    def encode(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: object = None,
        chunk_size: int | None = None,
        *,
        sentences: str | Iterable[str] | None = None,
    ) -> Any:
        """Vectors of texts: float32 [N, dim], or [dim] for a single string.

        Vectors that are not cut have length 1 if the checkpoint has a `Normalize` module, or no modules.json.
        Others have it only with `normalize_embeddings`.

        Args:
            inputs: one string or any iterable of strings. `sentences` is its older name.
            prompt_name: the name of one of `prompts`.
            prompt: the text of a prompt; goes before `prompt_name`.
            batch_size: without effect; runs are planned by tokens.
            show_progress_bar: on stderr, if that is a terminal. None shows it if this module's logger logs
                INFO.
            output_value: "sentence_embedding"; or "token_embeddings": float32 [n, dim] for the n tokens of
                each text, special ones included, neither cut nor normalised, in a list unless a single string
                is given.
            precision: "float32", "int8", "uint8", "binary" or "ubinary"; for token_embeddings only "float32".
            convert_to_numpy: False gives a list of tensors, if the program has imported torch.
            convert_to_tensor: one tensor, if the program has imported torch.
            device: the one the model was opened on, or None.
            normalize_embeddings: normalise after the cut.
            truncate_dim: cut vectors to this many values; by default the constructor's.
            pool: refused; one call uses all processors.
            chunk_size: without effect; it belongs to pools.

        Raises:
            InputError: a text that cannot be embedded; has its index.
            ConfigError: an argument out of range, or one for something that is not available here.
        """
        texts = _the_texts(inputs, sentences)
        check_batch_size(batch_size)
        check_precision(precision)
        refuse({"pool": pool}, NO_POOLS)
        if output_value not in ("sentence_embedding", "token_embeddings"):
            raise ConfigError(
                f"output_value is {repr(output_value)[:40]}; "
                "expected 'sentence_embedding' or 'token_embeddings'"
            )
        if output_value == "token_embeddings" and precision != "float32":
            raise ConfigError(f"precision is {precision!r}; token_embeddings are given as float32")
        if device is not None and (
            isinstance(device, (list, tuple)) or provider_of(device) != self._provider
        ):
            raise ConfigError(f"device is {str(device)[:40]!r}; this model is open on {self._provider!r}")
        single = isinstance(texts, str)
        front = resolve(self.prompts, prompt, prompt_name, self.default_prompt_name)
        if output_value == "token_embeddings":
            steps = self.embedder.steps
            tokens = steps.tokens(_with_prompt(texts, front), self.max_seq_length)
            states: list[Any] = steps.run(tokens, token_states=True).token_states
            if convert_to_tensor or not convert_to_numpy:
                states = [as_torch(each, "a tensor") for each in states]
            return states[0] if single else states
        dim = self.truncate_dim if truncate_dim is None else truncate_dim
        shown = logger.getEffectiveLevel() <= logging.INFO if show_progress_bar is None else show_progress_bar
        vectors = self._vectors(_with_prompt(texts, front), dim, normalize_embeddings, shown)
        finished = quantize(vectors, precision)
        result: Any = finished
        if convert_to_tensor:
            result = as_torch(finished, "convert_to_tensor=True")
        elif not convert_to_numpy:
            result = list(as_torch(finished, "convert_to_numpy=False"))
        return result[0] if single else result

    def encode_query(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: object = None,
        chunk_size: int | None = None,
        *,
        sentences: str | Iterable[str] | None = None,
    ) -> Any:
        """`encode` with the prompt named "query", unless another one is named."""
        if prompt is None and prompt_name is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
            pool,
            chunk_size,
            sentences=sentences,
        )

    def encode_document(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: object = None,
        chunk_size: int | None = None,
        *,
        sentences: str | Iterable[str] | None = None,
    ) -> Any:
        """`encode` with the prompt for documents ("document", "passage" or "corpus"), unless another is
        named."""
        if prompt is None and prompt_name is None:
            prompt_name = next((name for name in DOCUMENT_NAMES if name in self.prompts), None)
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
            pool,
            chunk_size,
            sentences=sentences,
        )

    @property
    def similarity_fn_name(self) -> str:
        """Which similarity `similarity` and `similarity_pairwise` compute."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: object) -> None:
        name = getattr(value, "value", value)  # the original takes a member of its enumeration too
        if name not in SIMILARITIES:
            raise ConfigError(
                f"similarity_fn_name is {str(name)[:40]!r}; expected one of {', '.join(SIMILARITIES)}"
            )
        self._similarity = str(name)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Every row with every row, [N, M]: a tensor for tensors, otherwise a numpy array."""
        return _like(
            each_with_each(self._similarity, as_rows(embeddings1), as_rows(embeddings2)),
            embeddings1,
            embeddings2,
        )

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Row i with row i, [N]: a tensor for tensors, otherwise a numpy array."""
        return _like(
            pairwise(self._similarity, as_rows(embeddings1), as_rows(embeddings2)),
            embeddings1,
            embeddings2,
        )

    def get_embedding_dimension(self) -> int:
        """Values of a vector that `encode` returns."""
        return self.embedder.dim if self.truncate_dim is None else min(self.truncate_dim, self.embedder.dim)

    get_sentence_embedding_dimension = get_embedding_dimension

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Use another `truncate_dim` inside a `with` block."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    def is_singular_input(self, inputs: object) -> bool:
        """One text, whose vector `encode` returns without a first axis."""
        return isinstance(inputs, str)

    @property
    def _opened(self) -> Embedder:  # type: ignore[override]
        return self.embedder

    def _vectors(
        self, texts: Iterable[str], dim: int | None, normalize: bool, show_progress: bool
    ) -> NDArray[np.float32]:
        steps = self.embedder.steps
        dim = steps.dim if dim is None else steps.check_dim(dim)  # before anything is run
        whole = steps.run(steps.tokens(texts, self.max_seq_length), show_progress=show_progress).cls
        if self.embedder.manifest.normalize:
            whole = cut_and_normalise(whole)
            normalize = normalize and dim < steps.dim  # not twice, which could change the last bit
        return cut(whole, dim, normalize)


def _the_texts(inputs: Any, sentences: Any) -> Any:
    if (inputs is None) == (sentences is None):
        raise TypeError("encode() takes the texts once: as `inputs`, or as `sentences`, its older name")
    return sentences if inputs is None else inputs


def _with_prompt(texts: Any, front: str) -> list[str]:
    # Checked before the prompt is added, or a number would be reported as a failed addition.
    return [front + check_text(text, index) for index, text in enumerate(as_texts(texts))]


def _like(result: Any, *given: Any) -> Any:
    """The result as a tensor, on the same device, if tensors were given, alone or in a list."""
    for values in given:
        first = values[0] if isinstance(values, (list, tuple)) and len(values) else values
        if is_tensor(first):
            return as_torch(np.asarray(result), "a tensor").to(first.device)
    return result
