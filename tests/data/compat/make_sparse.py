"""Writes sparse.json: what SparseEncoder of sentence-transformers says of the checkpoint of tests/mlm.py, and
the settings that it writes beside its own.

It needs the environment of make_expected.py. From the root of the repository:

    PYTHONPATH=tests PYTHON tests/data/compat/make_sparse.py

Nothing of gte_runtime runs here.
"""
# ruff: noqa: TID251 - torch and transformers are what this file is for; it runs in an environment of its own

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from make_expected import write_checkpoint
from mlm import TEXTS, add_head, query_weights
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from tensorfile import read_tensors, safetensors

HERE = Path(__file__).parent
SIMILARITIES = ("dot", "cosine", "euclidean", "manhattan")


def rows(embeddings: torch.Tensor) -> list[dict[str, list[Any]]]:
    dense = embeddings.to_dense()
    found = []
    for row in dense:
        ids = row.nonzero()[:, 0]
        found.append({"indices": ids.tolist(), "values": [float(f"{v:.7g}") for v in row[ids].tolist()]})
    return found


def of_model(model: SparseEncoder) -> dict[str, Any]:
    documents, queries = model.encode_document(TEXTS), model.encode_query(TEXTS)
    found: dict[str, Any] = {
        "documents": rows(documents),
        "queries": rows(queries),
        "largest": rows(model.encode_document(TEXTS, max_active_dims=5)),
        "decoded": model.decode(documents[0], top_k=3),
        "sparsity": model.sparsity(documents),
        "default_similarity": model.similarity_fn_name,
    }
    for name in SIMILARITIES:
        model.similarity_fn_name = name
        found[f"similarity.{name}"] = model.similarity(queries, documents).tolist()
        found[f"pairwise.{name}"] = model.similarity_pairwise(queries, documents).tolist()
    return found


def settings(model: SparseEncoder, folder: Path) -> dict[str, Any]:
    """The JSON files that the library writes, without those of transformers."""
    model.similarity_fn_name = "dot"
    model.save(str(folder))
    names = [
        file.relative_to(folder).as_posix()
        for file in sorted(folder.rglob("*.json"))
        if file.name in ("modules.json", "router_config.json", "sentence_bert_config.json")
        or file.name == "config_sentence_transformers.json"
        or (file.name == "config.json" and "Pooling" in file.parent.name)
        or (file.name == "config.json" and "Static" in file.parent.name)
    ]
    return {name: json.loads((folder / name).read_text()) for name in names}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = folder / "checkpoint"
        write_checkpoint(HERE.parent / "gte-tiny-random", checkpoint, "GteForMaskedLM")
        tensors = read_tensors(checkpoint / "model.safetensors")
        add_head(tensors, "layer_norm")
        (checkpoint / "model.safetensors").write_bytes(safetensors(tensors))

        def encoder() -> Transformer:
            return Transformer(
                str(checkpoint),
                transformer_task="fill-mask",
                max_seq_length=8192,
                model_kwargs={"dtype": torch.float32},
            )

        found: dict[str, Any] = {}
        plain = SparseEncoder(modules=[encoder(), SpladePooling("max")], device="cpu")
        found["relu"] = of_model(plain) | {"files": settings(plain, folder / "plain")}
        document = encoder()
        vocabulary = document.model.config.vocab_size
        static = SparseStaticEmbedding(
            document.tokenizer, torch.from_numpy(query_weights(vocabulary)), frozen=True
        )
        router = Router.for_query_document(
            query_modules=[static],
            document_modules=[document, SpladePooling("max", activation_function="log1p_relu")],
        )
        routed = SparseEncoder(modules=[router], device="cpu")
        documents = rows(routed.encode_document(TEXTS))
        queries = rows(routed.encode_query(TEXTS))
        scores = routed.similarity(routed.encode_query(TEXTS).to_dense()[:, : vocabulary - 3],
                                   routed.encode_document(TEXTS).to_dense()[:, : vocabulary - 3])  # fmt: skip
        found["log1p_relu"] = {
            "documents": documents,
            "queries": queries,
            "similarity.dot": scores.tolist(),
            "files": settings(routed, folder / "routed"),
        }
    (HERE / "sparse.json").write_text(json.dumps(found, ensure_ascii=False, indent=None) + "\n")


if __name__ == "__main__":
    main()
