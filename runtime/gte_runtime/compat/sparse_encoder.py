"""SparseEncoder of sentence-transformers, on a bundle with either sparse head.

Compared with sentence-transformers 6.2.0. What differs:

- `encode` gives a sparse PyTorch tensor, as the original does, if the program has imported torch. Without
  torch it gives `SparseVectors`, or a `SparseVector` for a single string; `convert_to_sparse_tensor=False`
  gives arrays over the whole vocabulary. All methods take any of these.
- The head that weights a text's own tokens, which gte-multilingual-base has, works as well. The original does
  not know it. It leaves out special tokens; an expansion has them, as in the original.
- `batch_size` has no effect, and there are no process pools: one call uses all processors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Float32
from ..embedder import Embedder
from ..errors import ConfigError
from ..format.manifest import SIMILARITIES
from ..sparse import SparseVector, SparseVectors
from ..tokenization import Form, as_texts, check_text
from .arguments import check_batch_size, refuse, warn_without_effect
from .device import provider_of
from .prompts import DOCUMENT_NAMES, resolve
from .surface import NO_POOLS, Surface
from .tensors import is_tensor, torch_for

logger = logging.getLogger(__name__)


class SparseEncoder(Surface):
    """The constructor of the original, and those of its methods that embed text and compare vectors."""

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
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: object = None,
        backend: str = "torch",
        similarity_fn_name: str | None = None,
        max_active_dims: int | None = None,
        variant: str | None = None,
        threads: int | None = None,
        unicode: Form | None = None,
    ) -> None:
        """Open a bundle. Arguments are those of our `SentenceTransformer`, and `max_active_dims`: how many
        entries of a vector are kept, the largest.

        Raises:
            ConfigError: the model has no sparse head, or an argument for something that is not available.
        """
        refuse({"modules": modules}, "a bundle is one whole model; name a bundle")
        refuse({"revision": revision}, "a bundle is of one revision; build or pull the one you want")
        processor = dict(processor_kwargs or {})
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
        self.similarity_fn_name = "dot" if similarity_fn_name is None else similarity_fn_name
        _check_count(max_active_dims, "max_active_dims")
        self.max_active_dims = max_active_dims
        self._provider = provider_of(device)
        self.embedder = Embedder.open(
            model_name_or_path, provider=self._provider, variant=variant, threads=threads, unicode=unicode
        )
        manifest = self.embedder.manifest
        try:
            self.embedder.steps.check_sparse(True)
            if similarity_fn_name is None and manifest.expansion:
                self.similarity_fn_name = manifest.similarity
            self.prompts = {"query": "", "document": "", **manifest.prompts, **(prompts or {})}
            self.default_prompt_name = default_prompt_name or manifest.default_prompt or None
            resolve(self.prompts, None, None, self.default_prompt_name)
        except ConfigError:
            self.embedder.close()
            raise
        self.max_seq_length: int = self.embedder.steps.length(None) if length is None else length

    def encode(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: object = None,
        max_active_dims: int | None = None,
        pool: object = None,
        chunk_size: int | None = None,
        *,
        task: str | None = None,
        sentences: str | Iterable[str] | None = None,
    ) -> Any:
        """Sparse vectors of texts, [N, vocabulary], or [vocabulary] for a single string.

        Args:
            inputs: one string or any iterable of strings. `sentences` is its older name.
            prompt_name: the name of one of `prompts`.
            prompt: the text of a prompt; goes before `prompt_name`.
            batch_size: without effect; runs are planned by tokens.
            show_progress_bar: on stderr, if that is a terminal. None shows it if this module's logger logs
                INFO.
            convert_to_tensor: one value for all texts; False gives a list of one for each text.
            convert_to_sparse_tensor: False gives every entry of the vocabulary.
            save_to_cpu: without effect; results are in the machine's memory.
            device: the one the model was opened on, or None.
            max_active_dims: how many entries of a vector are kept, the largest; by default the constructor's.
            pool: refused; one call uses all processors.
            chunk_size: without effect; it belongs to pools.
            task: "query" uses the model's encoder for queries, if it has one.

        Raises:
            InputError: a text that cannot be embedded; has its index.
            ConfigError: an argument out of range, or one for something that is not available here.
        """
        if (inputs is None) == (sentences is None):
            raise TypeError("encode() takes the texts once: as `inputs`, or as `sentences`, its older name")
        texts: Any = sentences if inputs is None else inputs
        check_batch_size(batch_size)
        refuse({"pool": pool}, NO_POOLS)
        if task not in (None, "query", "document"):
            raise ConfigError(f"task is {str(task)[:40]!r}; expected 'query' or 'document'")
        if device is not None and (
            isinstance(device, (list, tuple)) or provider_of(device) != self._provider
        ):
            raise ConfigError(f"device is {str(device)[:40]!r}; this model is open on {self._provider!r}")
        most = self.max_active_dims if max_active_dims is None else max_active_dims
        _check_count(most, "max_active_dims")
        front = resolve(self.prompts, prompt, prompt_name, self.default_prompt_name)
        shown = logger.getEffectiveLevel() <= logging.INFO if show_progress_bar is None else show_progress_bar
        checked = [front + check_text(text, index) for index, text in enumerate(as_texts(texts))]
        steps = self.embedder.steps
        tokens = steps.tokens(checked, self.max_seq_length)
        if task == "query":
            vectors = steps.query_vectors(tokens)
        else:
            states = steps.run(tokens, show_progress=shown)
            vectors = steps.collect(tokens, states, dense=False, sparse=True).sparse  # type: ignore[assignment]
        kept = SparseVectors([_largest(vector, most) for vector in vectors], vectors.width)
        found = self._as_asked(kept, convert_to_tensor, convert_to_sparse_tensor)
        return found[0] if isinstance(texts, str) else found

    def encode_query(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: object = None,
        max_active_dims: int | None = None,
        pool: object = None,
        chunk_size: int | None = None,
        *,
        sentences: str | Iterable[str] | None = None,
    ) -> Any:
        """`encode` with the prompt named "query", unless another one is named, and with the model's encoder
        for queries, if it has one."""
        if prompt is None and prompt_name is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(
            inputs, prompt_name, prompt, batch_size, show_progress_bar, convert_to_tensor,
            convert_to_sparse_tensor, save_to_cpu, device, max_active_dims, pool, chunk_size, task="query",
            sentences=sentences,
        )  # fmt: skip

    def encode_document(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: object = None,
        max_active_dims: int | None = None,
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
            inputs, prompt_name, prompt, batch_size, show_progress_bar, convert_to_tensor,
            convert_to_sparse_tensor, save_to_cpu, device, max_active_dims, pool, chunk_size, task="document",
            sentences=sentences,
        )  # fmt: skip

    @property
    def similarity_fn_name(self) -> str:
        """Which similarity `similarity` and `similarity_pairwise` compute: by default the dot product."""
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
        first, second = self._rows(embeddings1), self._rows(embeddings2)
        found = np.zeros((len(first), len(second)), np.float32)
        for scores, row in zip(found, first, strict=True):
            scores[:] = self._compare(row, second)
        return _like(found, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Row i with row i, [N]: a tensor for tensors, otherwise a numpy array."""
        pairs = zip(self._rows(embeddings1), self._rows(embeddings2), strict=True)
        found = [self._compare(a, [b])[0] for a, b in pairs]
        return _like(np.array(found, np.float32), embeddings1, embeddings2)

    def _compare(self, one: SparseVector, others: Sequence[SparseVector]) -> list[float]:
        """The similarity of a vector with each of some others, without writing those out over the whole
        vocabulary. Sums are in float64."""
        whole = np.zeros(self._width)
        whole[one.indices] = one.values
        square, absolute = float(whole @ whole), float(np.abs(whole).sum())
        scores = []
        for other in others:
            mine, theirs = whole[other.indices], other.values.astype(np.float64)
            dot, length = float(mine @ theirs), float(theirs @ theirs)
            if self._similarity == "dot":
                scores.append(dot)
            elif self._similarity == "cosine":
                scores.append(dot / max(np.sqrt(square * length), np.finfo(np.float32).tiny))
            elif self._similarity == "euclidean":
                rest = max(square - float(mine @ mine), 0.0)
                scores.append(-float(np.sqrt(rest + np.square(mine - theirs).sum())))
            else:
                rest = absolute - float(np.abs(mine).sum())
                scores.append(-(rest + float(np.abs(mine - theirs).sum())))
        return scores

    def decode(self, embeddings: Any, top_k: int | None = None) -> Any:
        """[(piece of the vocabulary, weight)] of a vector, the largest first; a list of these for several.

        Args:
            embeddings: as `encode` gives them.
            top_k: the most pairs; None gives all.
        """
        _check_count(top_k, "top_k")
        pieces = self.embedder.tokenizer.piece
        found = []
        for row in self._rows(embeddings):
            order = np.argsort(-row.values, kind="stable")[:top_k]
            found.append(
                [
                    (pieces(entry), weight)
                    for entry, weight in zip(
                        row.indices[order].tolist(), row.values[order].tolist(), strict=True
                    )
                ]
            )
        return found[0] if _is_single(embeddings) else found

    def sparsity(self, embeddings: Any) -> dict[str, float]:
        """{"active_dims": entries above 0 of a vector in the mean, "sparsity_ratio": share of the others}."""
        rows = self._rows(embeddings)
        if not rows:
            return {"active_dims": 0.0, "sparsity_ratio": 1.0}
        active = float(np.mean([len(row) for row in rows]))
        return {"active_dims": active, "sparsity_ratio": 1 - active / self._width}

    def intersection(self, embeddings_1: Any, embeddings_2: Any) -> Any:
        """The products of the weights of shared entries, of one vector with one or several others."""
        if not _is_single(embeddings_1):
            raise ConfigError("embeddings_1 holds several vectors; expected one")
        (one,) = self._rows(embeddings_1)
        rows = []
        for other in self._rows(embeddings_2):
            shared, mine, theirs = np.intersect1d(
                one.indices, other.indices, assume_unique=True, return_indices=True
            )
            rows.append(SparseVector(shared.astype(np.int32), one.values[mine] * other.values[theirs]))
        tensors = is_tensor(embeddings_1) or is_tensor(embeddings_2)
        vectors = SparseVectors(rows, self._width)
        found = _tensor(vectors) if tensors else vectors
        return found[0] if _is_single(embeddings_2) else found

    def get_embedding_dimension(self) -> int:
        """Entries of the vocabulary."""
        return self._width

    get_sentence_embedding_dimension = get_embedding_dimension

    @property
    def _opened(self) -> Embedder:  # type: ignore[override]
        return self.embedder

    @property
    def _width(self) -> int:
        return self.embedder.manifest.architecture.vocab_size

    def _as_asked(self, vectors: SparseVectors, together: bool, sparse: bool) -> Any:
        torch = _torch()
        if not sparse:
            dense = _dense(list(vectors), vectors.width)
            found: Any = dense if torch is None else torch.from_numpy(dense)
        else:
            found = vectors if torch is None else _tensor(vectors)
        return found if together else list(found)

    def _rows(self, embeddings: Any) -> list[SparseVector]:
        """Vectors in any of the forms in which `encode` gives them, one or several."""
        if isinstance(embeddings, SparseVector):
            return [embeddings]
        if isinstance(embeddings, (SparseVectors, list, tuple)) and all(
            isinstance(row, SparseVector) for row in embeddings
        ):
            return list(embeddings)
        if is_tensor(embeddings):
            embeddings = embeddings.detach().cpu()
            if not embeddings.is_sparse:
                return self._rows(embeddings.float().numpy())
            whole = embeddings.coalesce()
            indices, values = whole.indices().numpy(), whole.values().float().numpy()
            if whole.dim() == 1:
                return [_positive(indices[0], values)]
            return [
                _positive(indices[1][indices[0] == n], values[indices[0] == n]) for n in range(len(whole))
            ]
        if isinstance(embeddings, Sequence):
            return [row for one in embeddings for row in self._rows(one)]
        array = np.atleast_2d(np.asarray(embeddings, np.float32))
        return [_positive(np.flatnonzero(row), row[np.flatnonzero(row)]) for row in array]


def _torch() -> Any:
    """The module torch if the program has imported it, else None."""
    try:
        return torch_for("")
    except ConfigError:
        return None


def _tensor(vectors: SparseVectors) -> Any:
    torch = torch_for("a sparse tensor")
    csr = vectors.to_csr()
    rows = np.repeat(np.arange(len(vectors)), np.diff(csr.indptr))
    indices = torch.from_numpy(np.stack([rows, csr.indices.astype(np.int64)]))
    return torch.sparse_coo_tensor(
        indices, torch.from_numpy(csr.data), csr.shape, is_coalesced=True, check_invariants=False
    )


def _dense(vectors: Sequence[SparseVector], width: int) -> Float32:
    dense = np.zeros((len(vectors), width), np.float32)
    for row, vector in zip(dense, vectors, strict=True):
        row[vector.indices] = vector.values
    return dense


def _largest(vector: SparseVector, most: int | None) -> SparseVector:
    if most is None or len(vector) <= most:
        return vector
    kept = np.sort(np.argsort(-vector.values, kind="stable")[:most])
    return SparseVector(vector.indices[kept], vector.values[kept])


def _positive(indices: Any, values: Any) -> SparseVector:
    order = np.argsort(indices, kind="stable")
    return SparseVector(np.asarray(indices, np.int32)[order], np.asarray(values, np.float32)[order])


def _is_single(embeddings: Any) -> bool:
    if isinstance(embeddings, SparseVector):
        return True
    return getattr(embeddings, "ndim", 2) == 1


def _check_count(value: object, name: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value <= 0):
        raise ConfigError(f"{name} is {repr(value)[:40]}; expected a positive integer")


def _like(result: Float32, *given: Any) -> Any:
    """The result as a tensor if tensors were given, alone or in a list."""
    for values in given:
        first = values[0] if isinstance(values, (list, tuple)) and len(values) else values
        if is_tensor(first):
            return torch_for("a tensor").from_numpy(result)
    return result
