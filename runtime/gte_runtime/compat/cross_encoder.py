"""CrossEncoder of sentence-transformers, on a reranker's bundle; with numpy arrays where the original returns
tensors.

Compared with sentence-transformers 6.2.0. What differs: the default device is the CPU, there are no process
pools and no prompts for pairs, and `batch_size` has no effect.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from ..reranker import Reranker
from ..tokenization import Form, no_sequence
from .arguments import check_batch_size, refuse, warn_without_effect
from .device import provider_of
from .surface import NO_POOLS, Surface
from .tensors import as_rows, as_torch, is_tensor

logger = logging.getLogger(__name__)

Activation = Callable[[Any], Any]


class CrossEncoder(Surface):
    """The constructor, `predict` and `rank` of the original."""

    def __init__(
        self,
        model_name_or_path: str | Path = "gte-multilingual-reranker-base",
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
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: object = None,
        backend: str = "torch",
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        keep_in_fp32_modules: list[str] | None = None,
        automodel_args: Mapping[str, Any] | None = None,
        default_activation_function: Activation | None = None,
        variant: str | None = None,
        threads: int | None = None,
        unicode: Form | None = None,
    ) -> None:
        """Open a bundle.

        Args:
            model_name_or_path: a reranker's bundle directory, or the name of a model.
            modules: refused; a bundle is a complete model.
            device: None or "cpu", or "cuda".
            prompts, default_prompt_name: refused; pairs have no prompts here.
            cache_folder, trust_remote_code, local_files_only, token, model_card_data: accepted, without
                effect; nothing is downloaded, and no remote code is run.
            revision: refused; a bundle has one revision.
            model_kwargs, processor_kwargs, config_kwargs, backend, keep_in_fp32_modules: accepted with a
                warning.
            num_labels: None or 1; a reranker has one score.
            max_length: most tokens of a pair; by default the checkpoint's limit, at most 8192.
            activation_fn: applied to the raw scores; by default the checkpoint's, or else the sigmoid, as in
                the original.
            automodel_args, default_activation_function: older names of model_kwargs and activation_fn.
            variant: not in the original; a variant of the bundle.
            threads: not in the original; processors to use, as in `Embedder.open`.
            unicode: not in the original; "NFC" composes texts first, as in `Embedder.open`.
        """
        refuse({"modules": modules}, "a bundle is one whole model; name a bundle")
        refuse({"prompts": prompts, "default_prompt_name": default_prompt_name}, "pairs take no prompts here")
        refuse({"revision": revision}, "a bundle is of one revision; build or pull the one you want")
        if num_labels not in (None, 1):
            raise ConfigError(f"num_labels is {num_labels}; a reranker has 1")
        warn_without_effect(
            {
                "model_kwargs": model_kwargs or automodel_args,
                "processor_kwargs": processor_kwargs,
                "config_kwargs": config_kwargs,
                "keep_in_fp32_modules": keep_in_fp32_modules,
                **({"backend": backend} if backend != "torch" else {}),
            }
        )
        self.activation_fn = activation_fn or default_activation_function
        self._provider = provider_of(device)
        self.reranker = Reranker.open(
            model_name_or_path, provider=self._provider, variant=variant, threads=threads, unicode=unicode
        )
        own = min(self.reranker.manifest.max_length or 8192, self.reranker.max_length)
        self.max_seq_length: int = own if max_length is None else max_length

    def predict(
        self,
        inputs: Sequence[tuple[str, str]] | tuple[str, str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object = None,
        pool: object = None,
        chunk_size: int | None = None,
        *,
        sentences: Sequence[tuple[str, str]] | tuple[str, str] | None = None,
    ) -> Any:
        """Scores of pairs, float32 [N]; one number for a single pair.

        Args:
            inputs: pairs of texts, or one pair. `sentences` is its older name.
            prompt_name, prompt: refused.
            batch_size: without effect; runs are planned by tokens.
            show_progress_bar: on stderr, if that is a terminal. None shows it if this module's logger logs
                INFO.
            activation_fn: instead of the constructor's. A function of torch gets a tensor, others a numpy
                array.
            apply_softmax: without effect; there is one score for each pair.
            convert_to_numpy: False gives a list of tensors, if the program has imported torch.
            convert_to_tensor: one tensor, if the program has imported torch.
            device: the one the model was opened on, or None.
            pool: refused; one call uses all processors.
            chunk_size: without effect; it belongs to pools.

        Raises:
            InputError: not a pair of strings; has the index of the pair.
            ConfigError: an argument out of range, or one for something that is not available here.
        """
        if (inputs is None) == (sentences is None):
            raise TypeError("predict() takes the pairs once: as `inputs`, or as `sentences`, its older name")
        given: Any = sentences if inputs is None else inputs
        self._check(prompt_name, prompt, batch_size, device, pool)
        single = self.is_singular_input(given)
        pairs = [tuple(given)] if single else given.tolist() if isinstance(given, np.ndarray) else given
        shown = logger.getEffectiveLevel() <= logging.INFO if show_progress_bar is None else show_progress_bar
        function = activation_fn or self.activation_fn
        sigmoid = function is None and self.reranker.manifest.activation == "sigmoid"
        scores = self.reranker.score(pairs, self.max_seq_length, show_progress=shown, sigmoid=sigmoid)
        if function is not None:
            scores = _activated(scores, function)
        result: Any = scores
        if convert_to_tensor:
            result = as_torch(scores, "convert_to_tensor=True")
        elif not convert_to_numpy:
            result = list(as_torch(scores, "convert_to_numpy=False"))
        return result[0] if single else result

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: object = None,
        pool: object = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """[{"corpus_id": position, "score": float, "text": document}], best first; "text" if requested."""
        hint = "; give a list" if isinstance(documents, str) else no_sequence(documents)
        if hint:
            kind = type(documents).__name__
            raise InputError(f"expected a list of texts, found {kind}{hint}", field="documents", got=kind)
        listed = list(documents)
        pairs = [(query, document) for document in listed]
        scores = self.predict(
            pairs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        )
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        text = [{"text": listed[row]} if return_documents else {} for row in order]
        return [
            {"corpus_id": row, "score": float(scores[row]), **more}
            for row, more in zip(order, text, strict=True)
        ]

    @property
    def max_length(self) -> int:
        """The older name of max_seq_length."""
        return self.max_seq_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self.max_seq_length = value

    num_labels = 1

    def is_singular_input(self, inputs: Any) -> bool:
        """One pair, whose score `predict` returns as a number."""
        # A string of two letters, and a dictionary or a data frame of two rows, are none.
        pair = isinstance(inputs, (list, tuple, np.ndarray)) and len(inputs) == 2
        return pair and all(isinstance(text, str) for text in inputs)

    @property
    def _opened(self) -> Reranker:  # type: ignore[override]
        return self.reranker

    def _check(
        self, prompt_name: str | None, prompt: str | None, batch_size: int, device: object, pool: object
    ) -> None:
        check_batch_size(batch_size)
        refuse({"prompt_name": prompt_name, "prompt": prompt}, "pairs take no prompts here")
        refuse({"pool": pool}, NO_POOLS)
        if device is not None and (
            isinstance(device, (list, tuple)) or provider_of(device) != self._provider
        ):
            raise ConfigError(f"device is {str(device)[:40]!r}; this model is open on {self._provider!r}")


def _activated(logits: NDArray[np.float32], function: Activation) -> NDArray[np.float32]:
    torch = sys.modules.get("torch")
    theirs = torch is not None and (
        isinstance(function, torch.nn.Module) or str(getattr(function, "__module__", "")).startswith("torch")
    )
    result = function(as_torch(logits, "activation_fn") if theirs else logits)
    return as_rows(result) if is_tensor(result) else np.asarray(result, np.float32)
