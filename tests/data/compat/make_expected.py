"""Writes expected.npz and expected.json: outputs of sentence-transformers and FlagEmbedding for two
tiny checkpoints.

Both run transformers' own GTE model.
They need an environment of their own: Python 3.11, torch 2.13.0, transformers 5.23.0,
sentence-transformers 6.2.0, FlagEmbedding 1.4.2. From the root of the repository:

    PYTHON tests/data/compat/make_expected.py

Nothing of gte_runtime runs here.
FlagEmbedding reads its sparse head from a file of its own, which is made of the checkpoint's
classifier; the multi-vector head that it insists on is random, and what depends on it is not kept.
"""
# ruff: noqa: TID251 - torch and transformers are what this file is for; it runs in an environment of its own

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import GteConfig

HERE = Path(__file__).parent
TINY = HERE.parent / "gte-tiny-random"
RERANKER = HERE.parent / "gte-tiny-reranker"
CUT = 20
"""Tokens at which pairs are cut, the longer text first."""
PROMPTS = {"query": "query: ", "passage": "passage: "}
PRECISIONS = ("int8", "uint8", "binary", "ubinary")
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
WEIGHTS = [0.4, 0.2, 0.0]


def write_checkpoint(source: Path, directory: Path, model: str) -> None:
    """A tiny checkpoint with its config as transformers spells it; transformers un-packs upstream's tensors
    by itself.
    """
    config = json.loads((source / "config.json").read_text())
    head = config["hidden_size"] // config["num_attention_heads"]
    factor = config["rope_scaling"]["factor"]
    same = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "hidden_act",
        "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id",
    )  # fmt: skip
    rope = {
        "rope_type": "linear",
        "rope_theta": config["rope_theta"] * factor,
        "factor": factor ** (2 / head),
    }
    native = GteConfig(
        **{key: config[key] for key in same},
        rope_parameters=rope,
        architectures=[model],
        num_labels=1,
        dtype="float32",
    )
    native.save_pretrained(directory)
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(source / name, directory)
    # Taken as it stands: under its own class name transformers 5 rebuilds the tokenizer, and loses this one's
    # normaliser.
    tokenizer = json.loads((TINY / "tokenizer_config.json").read_text()) | {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def write_heads(directory: Path) -> None:
    """What FlagEmbedding wants beside the model."""
    config = json.loads((TINY / "config.json").read_text())
    tensors = load_file(TINY / "model.safetensors")
    torch.save(
        {kind: tensors[f"classifier.{kind}"].float() for kind in ("weight", "bias")},
        directory / "sparse_linear.pt",
    )
    width = config["hidden_size"]
    torch.save({"weight": torch.eye(width), "bias": torch.zeros(width)}, directory / "colbert_linear.pt")


def from_sentence_transformers(directory: Path, texts: list[str]) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(str(directory), max_seq_length=8192, model_kwargs={"dtype": torch.float32})
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu", prompts=PROMPTS)
    found = {
        "st.whole": model.encode(texts),
        "st.cut": model.encode(texts, truncate_dim=32),
        "st.cut_normalised": model.encode(texts, truncate_dim=32, normalize_embeddings=True),
        "st.query": model.encode_query(texts),
        "st.document": model.encode_document(texts),
        "st.passage": model.encode(texts, prompt_name="passage"),
        "st.single": model.encode(texts[0]),
    }
    found |= {f"st.{precision}": model.encode(texts, precision=precision) for precision in PRECISIONS}
    for name in SIMILARITIES:
        model.similarity_fn_name = name
        found[f"st.similarity.{name}"] = model.similarity(found["st.whole"], found["st.query"]).numpy()
        found[f"st.pairwise.{name}"] = model.similarity_pairwise(found["st.whole"], found["st.query"]).numpy()
    return found


def from_cross_encoder(directory: Path, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(directory), device="cpu", model_kwargs={"dtype": torch.float32})
    documents = [document for _, document in pairs]
    found = {
        "cross.default": model.predict(pairs),
        "cross.logits": model.predict(pairs, activation_fn=torch.nn.Identity()),
        "cross.single": model.predict(pairs[0]),
    }
    model.max_seq_length = CUT
    found["cross.cut"] = model.predict(
        [(query * 9, document * 2) for query, document in pairs], activation_fn=torch.nn.Identity()
    )
    model.max_seq_length = 8192
    ranked = model.rank(pairs[0][0], documents, top_k=3, return_documents=True)
    found["cross.rank.ids"] = np.array([row["corpus_id"] for row in ranked])
    found["cross.rank.scores"] = np.array([row["score"] for row in ranked])
    if [documents[row["corpus_id"]] for row in ranked] != [row["text"] for row in ranked]:
        raise ValueError("rank gave other texts than those of its ids")
    return found


def from_flag_embedding(
    directory: Path, texts: list[str], pairs: list[tuple[str, str]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(
        str(directory), use_fp16=False, devices="cpu", query_instruction_for_retrieval="query: "
    )
    out = model.encode(texts, return_dense=True, return_sparse=True)
    weights = [{token: float(weight) for token, weight in found.items()} for found in out["lexical_weights"]]
    scores = model.compute_score(pairs, weights_for_different_modes=WEIGHTS)
    arrays = {"flag.dense": out["dense_vecs"], "flag.queries": model.encode_queries(texts)["dense_vecs"]}
    kept = {
        "lexical_weights": weights,
        "scores": {
            mode: [float(value) for value in scores[mode]] for mode in ("sparse", "dense", "sparse+dense")
        },
        "words": model.convert_id_to_token(weights),
        "matching": float(model.compute_lexical_matching_score(weights[0], weights[1])),
    }
    return arrays, kept


def main() -> None:
    golden = json.loads((TINY / "expected.json").read_text())
    texts, pairs = golden["texts"], [tuple(pair) for pair in golden["pairs"]]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_checkpoint(TINY, directory, "GteModel")
        write_heads(directory)
        arrays = from_sentence_transformers(directory, texts)
        flag, kept = from_flag_embedding(directory, texts, pairs)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_checkpoint(RERANKER, directory, "GteForSequenceClassification")
        arrays |= from_cross_encoder(directory, [*pairs, *itertools.pairwise(texts)])
    np.savez_compressed(HERE / "expected.npz", **arrays, **flag)
    (HERE / "expected.json").write_text(
        json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    print({name: array.shape for name, array in (arrays | flag).items()}, file=sys.stderr)


if __name__ == "__main__":
    main()
