"""BGEM3FlagModel of FlagEmbedding, on a bundle: dense vectors and lexical weights from one run.

Compared with FlagEmbedding 1.4.2. What differs: there are no multi-vector (ColBERT) results, so
`compute_score` lacks their keys, and asking for them is an error; vectors are always float32; the default
device is the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..embedder import Embedder
from ..errors import ConfigError, InputError
from ..scoring import cut_and_normalise, lexical
from ..tokenization import Form, as_texts, check_text
from .arguments import check_batch_size, refuse, warn_without_effect
from .device import provider_of

MODES = ("dense", "sparse", "multi-vector")
"""To what the three weights of `compute_score` apply."""


class BGEM3FlagModel:
    """The constructor and methods of the original."""

    def __init__(
        self,
        model_name_or_path: str | Path,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "{}{}",
        devices: object = None,
        pooling_method: str = "cls",
        trust_remote_code: bool = False,
        cache_dir: str | None = None,
        colbert_dim: int = -1,
        batch_size: int = 256,
        query_max_length: int = 512,
        passage_max_length: int = 512,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        truncate_dim: int | None = None,
        passage_instruction_for_retrieval: str | None = None,
        passage_instruction_format: str = "{}{}",
        *,
        variant: str | None = None,
        threads: int | None = None,
        unicode: Form | None = None,
    ) -> None:
        """Open a bundle.

        Args:
            model_name_or_path: a bundle directory, or the name of a model.
            normalize_embeddings: L2-normalise dense vectors.
            use_fp16, trust_remote_code, cache_dir, colbert_dim: accepted, without effect.
            use_bf16: accepted, with a warning.
            query_instruction_for_retrieval, passage_instruction_for_retrieval: text for `encode_queries` and
                `encode_corpus`.
            query_instruction_format, passage_instruction_format: how to combine instruction and text.
            devices: None or "cpu", or "cuda"; a list of one of them.
            pooling_method: "cls"; any other is refused.
            batch_size: without effect; runs are planned by tokens.
            query_max_length, passage_max_length: tokens at which texts are cut: 512, not 8192, as in the
                original.
            return_dense, return_sparse, return_colbert_vecs: what `encode` returns by default.
            truncate_dim: cut dense vectors to this many values, before they are normalised.
            variant, threads, unicode: not in the original; as in `Embedder.open`.
        """
        if pooling_method != "cls":
            raise ConfigError(
                f"pooling_method is {pooling_method!r}; expected 'cls', the state of the first token"
            )
        check_batch_size(batch_size)
        warn_without_effect({"use_bf16": use_bf16})
        listed = devices if isinstance(devices, (list, tuple)) else [devices]
        refuse({"devices": devices if len(listed) != 1 else None}, "one model runs on one device")
        self.normalize_embeddings = normalize_embeddings
        self.query_instruction_for_retrieval = query_instruction_for_retrieval
        self.query_instruction_format = query_instruction_format
        self.passage_instruction_for_retrieval = passage_instruction_for_retrieval
        self.passage_instruction_format = passage_instruction_format
        self.query_max_length = query_max_length
        self.passage_max_length = passage_max_length
        self.return_dense = return_dense
        self.return_sparse = return_sparse
        self.return_colbert_vecs = return_colbert_vecs
        self.truncate_dim = truncate_dim
        self.embedder = Embedder.open(
            model_name_or_path,
            provider=provider_of(listed[0]),
            variant=variant,
            threads=threads,
            unicode=unicode,
        )

    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> dict[str, Any]:
        """{"dense_vecs": float32 [N, dim], "lexical_weights": [{token id as string: weight}], "colbert_vecs":
        None}.

        What was not requested is None. For a single string the values are [dim] and one dictionary.
        """
        wanted = self.return_colbert_vecs if return_colbert_vecs is None else return_colbert_vecs
        refuse({"return_colbert_vecs": wanted or None}, "this family has no multi-vector head")
        if batch_size is not None:
            check_batch_size(batch_size)
        dense = self.return_dense if return_dense is None else return_dense
        sparse = self.return_sparse if return_sparse is None else return_sparse
        length = self.passage_max_length if max_length is None else max_length
        steps = self.embedder.steps
        dim = steps.check_dim(self.truncate_dim)
        if sparse:
            steps.check_sparse(True)
        tokens = steps.tokens(sentences, length)
        states = steps.run(tokens)
        cut = states.cls[:, :dim]
        vectors = (cut_and_normalise(cut) if self.normalize_embeddings else cut) if dense else None
        weights = steps.weights_by_string(tokens, states, str) if sparse else None
        if isinstance(sentences, str):
            one = None if weights is None else weights[0]
            return {
                "dense_vecs": None if vectors is None else vectors[0],
                "lexical_weights": one,
                "colbert_vecs": None,
            }
        return {"dense_vecs": vectors, "lexical_weights": weights, "colbert_vecs": None}

    def encode_queries(
        self,
        queries: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> dict[str, Any]:
        """`encode` with the queries' instruction and length."""
        texts = _instructed(queries, self.query_instruction_for_retrieval, self.query_instruction_format)
        length = self.query_max_length if max_length is None else max_length
        return self.encode(texts, batch_size, length, return_dense, return_sparse, return_colbert_vecs)

    def encode_corpus(
        self,
        corpus: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> dict[str, Any]:
        """`encode` with the passages' instruction and length."""
        texts = _instructed(corpus, self.passage_instruction_for_retrieval, self.passage_instruction_format)
        return self.encode(texts, batch_size, max_length, return_dense, return_sparse, return_colbert_vecs)

    def compute_score(
        self,
        sentence_pairs: Sequence[tuple[str, str]] | tuple[str, str],
        batch_size: int | None = None,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """{"sparse": [N], "dense": [N], "sparse+dense": [N]}, lists of floats; plain floats for a single
        pair.

        Args:
            sentence_pairs: (query, passage) pairs, or one pair.
            batch_size: without effect.
            max_query_length, max_passage_length: tokens; by default the constructor's.
            weights_for_different_modes: of dense, sparse and multi-vector. Equal by default; the third must
                be 0 here.

        Raises:
            InputError: not a pair of strings; has the index of the pair.
            ConfigError: a third weight other than 0.
        """
        if batch_size is not None:
            check_batch_size(batch_size)
        dense_weight, sparse_weight = _two_weights(weights_for_different_modes)
        single = len(sentence_pairs) == 2 and all(isinstance(text, str) for text in sentence_pairs)
        pairs: list[Any] = [sentence_pairs] if single else list(sentence_pairs)
        for index, pair in enumerate(pairs):
            if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
                raise InputError(
                    "expected a (query, passage) pair",
                    index=index,
                    field="sentence_pairs",
                    got=type(pair).__name__,
                )
        queries = self._vectors_and_weights(
            [pair[0] for pair in pairs], max_query_length or self.query_max_length
        )
        passages = self._vectors_and_weights(
            [pair[1] for pair in pairs], max_passage_length or self.passage_max_length
        )
        dense = np.einsum("ij,ij->i", queries[0], passages[0], dtype=np.float64)
        sparse = np.array([lexical(q, p) for q, p in zip(queries[1], passages[1], strict=True)], np.float64)
        both = (sparse * sparse_weight + dense * dense_weight) / (sparse_weight + dense_weight)
        scores: dict[str, list[float]] = {
            "sparse": sparse.tolist(),
            "dense": dense.tolist(),
            "sparse+dense": both.tolist(),
        }
        return {mode: values[0] for mode, values in scores.items()} if single else scores

    def compute_lexical_matching_score(
        self,
        lexical_weights_1: Mapping[str, float] | Sequence[Mapping[str, float]],
        lexical_weights_2: Mapping[str, float] | Sequence[Mapping[str, float]],
    ) -> Any:
        """Sum of products over shared tokens: a float for two dictionaries, [N, M] for two lists of them."""
        if isinstance(lexical_weights_1, Mapping) and isinstance(lexical_weights_2, Mapping):
            return lexical(lexical_weights_1, lexical_weights_2)
        if isinstance(lexical_weights_1, Mapping) or isinstance(lexical_weights_2, Mapping):
            raise ConfigError("compute_lexical_matching_score takes two dictionaries, or two lists of them")
        return np.array([[lexical(one, other) for other in lexical_weights_2] for one in lexical_weights_1])

    def convert_id_to_token(
        self, lexical_weights: Mapping[str, float] | Sequence[Mapping[str, float]]
    ) -> Any:
        """The same weights with decoded tokens as keys; a dictionary for one dictionary, otherwise a list."""
        given = [lexical_weights] if isinstance(lexical_weights, Mapping) else list(lexical_weights)
        decode = self.embedder.tokenizer.decode
        decoded = [{decode(int(token)): weight for token, weight in weights.items()} for weights in given]
        return decoded[0] if len(decoded) == 1 else decoded

    def close(self) -> None:
        """Stop all runs and release the memory."""
        self.embedder.close()

    def __repr__(self) -> str:
        return f"BGEM3FlagModel({self.embedder!r})"

    def __enter__(self) -> BGEM3FlagModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _vectors_and_weights(self, texts: list[str], max_length: int) -> tuple[Any, list[dict[str, float]]]:
        steps = self.embedder.steps
        steps.check_sparse(True)
        tokens = steps.tokens(texts, max_length)
        states = steps.run(tokens)
        vectors = cut_and_normalise(states.cls) if self.normalize_embeddings else states.cls
        return vectors, steps.weights_by_string(tokens, states, str)


def _instructed(texts: str | Iterable[str], instruction: str | None, form: str) -> str | Iterable[str]:
    if instruction is None:
        return texts
    form = form.replace("\\n", "\n")
    made = [form.format(instruction, check_text(text, index)) for index, text in enumerate(as_texts(texts))]
    return made[0] if isinstance(texts, str) else made


def _two_weights(weights: Sequence[float] | None) -> tuple[float, float]:
    """Weights of dense and sparse.

    Raises:
        ConfigError: not three numbers, a third other than 0, or a sum of 0, by which scores are divided.
    """
    if weights is None:
        return 1.0, 1.0
    if len(weights) != len(MODES):
        raise ConfigError(
            f"weights_for_different_modes has {len(weights)} numbers; "
            f"expected one each for {', '.join(MODES)}"
        )
    dense, sparse, multi = weights
    if multi:
        raise ConfigError(
            f"weights_for_different_modes[2] is {multi}: this family has no multi-vector head; pass 0"
        )
    if dense + sparse == 0:
        raise ConfigError("weights_for_different_modes of dense and sparse add up to 0")
    return dense, sparse
