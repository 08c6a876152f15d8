"""SparseEncoder gives what sentence-transformers gives for the same weights: expansions over the vocabulary,
queries by a table, similarities; and it works with the head that weights a text's own tokens.

What the original says lies in tests/data/compat/sparse.json, with the settings that it writes.
"""

from __future__ import annotations

import copy
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import DATA
from invariance import assert_as_alone
from mlm import TEXTS, add_head, query_weights, write_mlm
from tensorfile import Tensor, Tensors, derive, safetensors

from gte_runtime import Embedder
from gte_runtime.building.build import build
from gte_runtime.bundle.directory import Bundle
from gte_runtime.compat import SparseEncoder
from gte_runtime.errors import CheckpointError, ConfigError, SelfCheckFailed
from gte_runtime.integrations import mteb
from gte_runtime.integrations.milvus import GteEmbeddingFunction
from gte_runtime.jobs.rows import of_texts
from gte_runtime.jobs.search import Index, Weights
from gte_runtime.sparse import SparseVector, SparseVectors

GRAPHS = DATA / "gte-tiny-random" / "graphs"
EXPECTED: dict[str, Any] = json.loads((DATA / "compat" / "sparse.json").read_text(encoding="utf-8"))
PLAIN, ROUTED = EXPECTED["relu"], EXPECTED["log1p_relu"]
STATIC = "query_0_SparseStaticEmbedding"


def routed(directory: Path, encoder: str) -> Path:
    """The checkpoint with a route for queries; the encoder's files are in the folder `encoder`, or beside
    modules.json where that is empty, as OpenSearch has it."""
    files = copy.deepcopy(ROUTED["files"])
    if not encoder:
        router = files["router_config.json"]
        router["types"][""] = router["types"].pop("document_0_Transformer")
        router["structure"]["document"][0] = ""
        files["sentence_bert_config.json"] = files.pop("document_0_Transformer/sentence_bert_config.json")
    write_mlm(directory, files)
    vocabulary = json.loads((directory / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    weight = Tensor.of(query_weights(vocabulary), "F32")
    (directory / STATIC / "model.safetensors").write_bytes(safetensors({"weight": weight}))
    if encoder:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            shutil.move(directory / name, directory / encoder / name)
    return directory


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    checkpoint = write_mlm(folder / "checkpoint", PLAIN["files"])
    build(
        checkpoint,
        folder / "bundle",
        graphs=GRAPHS,
        variants=("cpu-fp32", "portable-fp32", "cpu-int8", "portable-fp16"),
    )
    return folder / "bundle"


@pytest.fixture(scope="module")
def with_queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routed")
    checkpoint = routed(folder / "checkpoint", "document_0_Transformer")
    build(checkpoint, folder / "bundle", graphs=GRAPHS)
    return folder / "bundle"


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process may have imported torch, and then tensors are given."""
    monkeypatch.setattr("gte_runtime.compat.sparse_encoder._torch", lambda: None)


def assert_vectors(found: SparseVectors, expected: list[dict[str, list[Any]]], atol: float = 2e-4) -> None:
    """The same weights; an entry that is below `atol` may be there or not."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        dense, wanted = np.zeros(found.width), np.zeros(found.width)
        dense[ours.indices] = ours.values
        wanted[theirs["indices"]] = theirs["values"]
        np.testing.assert_allclose(dense, wanted, atol=atol)


@pytest.mark.parametrize("variant", ["cpu-fp32", "portable-fp32"])
def test_documents(plain: Path, variant: str):
    with SparseEncoder(plain, variant=variant) as model:
        found = model.encode_document(TEXTS)
    assert found.shape == (len(TEXTS), 1536)
    assert_vectors(found, PLAIN["documents"])


@pytest.mark.parametrize(("variant", "cosine"), [("cpu-int8", 0.98), ("portable-fp16", 0.999)])
def test_other_variants(plain: Path, variant: str, cosine: float):
    """Near, as the graphs' states are; the head itself is in float32 everywhere."""
    with SparseEncoder(plain, variant=variant) as model, SparseEncoder(plain) as exact:
        model.similarity_fn_name = "cosine"
        found = model.similarity_pairwise(model.encode(TEXTS), exact.encode(TEXTS))
    assert cosine < found.min() < found.max() <= 1


def test_the_largest_entries(plain: Path):
    with SparseEncoder(plain, max_active_dims=7) as model:
        found = model.encode(TEXTS, max_active_dims=5)
        assert_vectors(found, PLAIN["largest"])
        assert [len(vector) for vector in model.encode(TEXTS)] == [7] * len(TEXTS)


def test_pieces_of_the_vocabulary(plain: Path):
    with SparseEncoder(plain) as model:
        found = model.decode(model.encode(TEXTS)[0], top_k=3)
        several = model.decode(model.encode(TEXTS), top_k=3)
    assert [piece for piece, _ in found] == [piece for piece, _ in PLAIN["decoded"]]
    np.testing.assert_allclose([w for _, w in found], [w for _, w in PLAIN["decoded"]], atol=2e-4)
    assert several[0] == found


@pytest.mark.parametrize("name", ["dot", "cosine", "euclidean", "manhattan"])
def test_similarities(plain: Path, name: str):
    with SparseEncoder(plain, similarity_fn_name=name) as model:
        queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS)
        each = model.similarity(queries, documents)
        rows = model.similarity_pairwise(queries, documents)
        written_out = model.similarity(
            model.encode(TEXTS, convert_to_sparse_tensor=False), [queries[0], queries[1]]
        )
    wanted = np.array(PLAIN[f"similarity.{name}"])
    scale = np.abs(wanted).max()
    # The distance of a vector from itself is not exactly 0 in the original.
    np.testing.assert_allclose(each / scale, wanted / scale, atol=3e-3)
    np.testing.assert_allclose(rows / scale, np.array(PLAIN[f"pairwise.{name}"]) / scale, atol=3e-3)
    np.testing.assert_allclose(written_out, each[:, :2], rtol=1e-4, atol=1e-4)


def test_settings_of_the_original(plain: Path):
    """How vectors are compared, and how sparse they are."""
    with SparseEncoder(plain) as model:
        assert model.similarity_fn_name == PLAIN["default_similarity"]
        found = model.sparsity(model.encode(TEXTS))
        assert found["active_dims"] == pytest.approx(PLAIN["sparsity"]["active_dims"], abs=1)
        assert found["sparsity_ratio"] == pytest.approx(PLAIN["sparsity"]["sparsity_ratio"], abs=1e-3)
        assert model.sparsity([]) == {"active_dims": 0.0, "sparsity_ratio": 1.0}


def test_forms(plain: Path):
    """A single string gives a single vector; lists and written-out arrays where they are asked for."""
    with SparseEncoder(plain) as model:
        one = model.encode(TEXTS[0])
        assert isinstance(one, SparseVector)
        listed = model.encode(TEXTS, convert_to_tensor=False)
        assert isinstance(listed, list)
        whole = model.encode(TEXTS, convert_to_sparse_tensor=False)
        assert whole.shape == (len(TEXTS), model.get_embedding_dimension())
        assert whole[0, one.indices].tolist() == one.values.tolist()
        assert np.count_nonzero(whole[0]) == len(one)
        shared = model.intersection(one, one)
        np.testing.assert_array_equal(shared.values, one.values**2)
        assert len(model.encode([])) == 0


def test_the_same_bits_in_any_batch(plain: Path):
    with Embedder.open(plain) as gte:
        together = gte.encode(TEXTS * 3, sparse=True).sparse
        alone = [gte.encode([text], sparse=True).sparse[0] for text in TEXTS]
        for n, vector in enumerate(together):
            np.testing.assert_array_equal(vector.indices, alone[n % len(TEXTS)].indices)
            assert_as_alone(gte, vector.values, alone[n % len(TEXTS)].values)


def test_queries_by_their_table(with_queries: Path):
    """Each token with its own weight, and no model is run; documents have log(1 + log(1 + relu))."""
    with SparseEncoder(with_queries) as model:
        queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS)
        assert_vectors(queries, ROUTED["queries"], 1e-6)
        assert_vectors(documents, ROUTED["documents"])
        found = model.similarity(queries, documents)
    np.testing.assert_allclose(found, ROUTED["similarity.dot"], rtol=1e-3, atol=1e-3)


def test_queries_through_the_library(with_queries: Path, plain: Path):
    """`encode_queries` and `score` take the table too; a model without one encodes queries as documents."""
    with Embedder.open(with_queries) as gte:
        assert_vectors(gte.encode_queries(TEXTS), ROUTED["queries"], 1e-6)
        pairs = [(TEXTS[0], TEXTS[3]), (TEXTS[4], TEXTS[3])]
        scores = gte.score(pairs, dense_weight=0, sparse_weight=1)
        # Tokens with the same string share a key there, so this vocabulary's pieces may add to each other.
        assert scores[0] > 0
    with Embedder.open(plain) as gte:
        ours, theirs = gte.encode_queries(TEXTS), gte.encode(TEXTS).sparse
        assert all(a.as_dict() == b.as_dict() for a, b in zip(ours, theirs, strict=True))


def test_queries_of_a_bundle_with_settings(tmp_path: Path):
    """`encode_queries` has the checkpoint's limit and prompt, as `encode` has."""
    files = copy.deepcopy(PLAIN["files"])
    files["sentence_bert_config.json"]["max_seq_length"] = 9
    files["config_sentence_transformers.json"] |= {"prompts": {"q": "find: "}, "default_prompt_name": "q"}
    build(write_mlm(tmp_path / "checkpoint", files), tmp_path / "bundle", graphs=GRAPHS)
    with Embedder.open(tmp_path / "bundle") as gte:
        ours, theirs = gte.encode_queries(TEXTS), gte.encode(TEXTS).sparse
        assert [a.as_dict() for a in ours] == [b.as_dict() for b in theirs]
        bare = gte.encode(TEXTS, prompt_name="").sparse
        assert [a.as_dict() for a in gte.encode_queries(TEXTS, prompt_name="")] == [b.as_dict() for b in bare]


def test_queries_of_the_integrations(with_queries: Path):
    """What fills a store encodes a query by the table, and a document by the model."""
    with Embedder.open(with_queries) as gte:
        function = GteEmbeddingFunction(gte)
        queries, documents = function.encode_queries(TEXTS), function.encode_documents(TEXTS)
        assert queries["sparse"] == [vector.as_dict() for vector in gte.encode_queries(TEXTS)]
        assert documents["sparse"] == [vector.as_dict() for vector in gte.encode(TEXTS).sparse]
        np.testing.assert_array_equal(queries["dense"], documents["dense"])
        found = mteb._encode(gte, TEXTS, True, dense=False, sparse=True, dim=None)
        assert [vector.as_dict() for vector in found.sparse] == queries["sparse"]
        assert found.dense is None


def test_search_with_a_model_for_documents(with_queries: Path):
    """`gte search` scores as `Embedder.score` does: the query by the table."""
    with Embedder.open(with_queries) as gte:
        for weights in (Weights(0, 1), Weights(1, 0.5)):
            index = Index(gte, of_texts(TEXTS), weights)
            expected = gte.score([(TEXTS[0], text) for text in TEXTS], weights.dense, weights.sparse)
            np.testing.assert_allclose(index.scores(TEXTS[0]), expected, rtol=1e-5)


def test_what_the_classes_share(plain: Path):
    """A text form, a line for `repr`, token counts, and errors that say why."""
    composed, decomposed = "Tất cả mọi người", unicodedata.normalize("NFD", "Tất cả mọi người")
    with SparseEncoder(plain, unicode="NFC") as model:
        assert model.encode(decomposed).as_dict() == model.encode(composed).as_dict()
        assert repr(model) == f"SparseEncoder({model.embedder!r})"
        assert len(model.tokenizer(TEXTS[0])["input_ids"]) == model.embedder.encode(TEXTS[0]).tokens[0]
        assert model.to("cpu") is model
        with pytest.raises(AttributeError, match="not trained"):
            model.fit()


def test_the_encoder_beside_modules_json(tmp_path: Path, with_queries: Path):
    """Where OpenSearch has it. The same vectors."""
    build(routed(tmp_path / "checkpoint", ""), tmp_path / "bundle", graphs=GRAPHS)
    with SparseEncoder(tmp_path / "bundle") as one, SparseEncoder(with_queries) as other:
        for ours, theirs in zip(one.encode(TEXTS), other.encode(TEXTS), strict=True):
            assert ours.as_dict() == theirs.as_dict()


def test_a_bare_checkpoint(tmp_path: Path, plain: Path):
    """Without modules.json it is as sentence-transformers takes such a model: max and relu."""
    build(write_mlm(tmp_path / "checkpoint"), tmp_path / "bundle", graphs=GRAPHS)
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.expansion, manifest.query_weights, manifest.sparse) == ("relu", False, True)
    assert (tmp_path / "bundle" / "mlm-head.bin").read_bytes() == (plain / "mlm-head.bin").read_bytes()


def test_special_tokens_are_part_of_an_expansion(tmp_path: Path):
    """As in sentence-transformers. The other head leaves them out."""

    def change(tensors: Tensors) -> None:
        add_head(tensors)
        bias = tensors["lm_head.decoder.bias"].values().copy()
        bias[:4] = 50
        tensors["lm_head.decoder.bias"] = Tensor.of(bias, "F32")

    derive(DATA / "gte-tiny-random", tmp_path / "checkpoint", change)
    build(tmp_path / "checkpoint", tmp_path / "bundle", graphs=GRAPHS)
    with Embedder.open(tmp_path / "bundle") as gte:
        assert set(gte.manifest.tokenizer.drop_ids) >= {0, 1, 2, 3}
        assert gte.encode("a", sparse=True).sparse[0].indices[:4].tolist() == [0, 1, 2, 3]


def test_a_bundle_proves_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A head that computes something else is found before there is a bundle."""
    monkeypatch.setattr("gte_runtime.inference.expansion.gelu", lambda x: np.maximum(x, 0))
    with pytest.raises(SelfCheckFailed, match="weights of an expansion"):
        build(write_mlm(tmp_path / "checkpoint"), tmp_path / "bundle", graphs=GRAPHS)


def test_the_other_head(tiny_bundle: Path):
    """Weights of the text's own tokens, through the same class; special tokens are left out."""
    with SparseEncoder(tiny_bundle) as model, Embedder.open(tiny_bundle) as gte:
        ours, theirs = model.encode_query(TEXTS), gte.encode(TEXTS).sparse
        assert all(a.as_dict() == b.as_dict() for a, b in zip(ours, theirs, strict=True))
        assert model.similarity(ours, ours)[0, 0] == pytest.approx(ours[0].dot(ours[0]), rel=1e-5)


def pooling(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda files: files["1_SpladePooling/config.json"].update(changes)


def another_module(files: dict[str, Any]) -> None:
    files["modules.json"].append({"idx": 2, "path": "2_X", "type": "sentence_transformers.models.Normalize"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pooling(pooling_strategy="sum"), "pooling_strategy is 'sum'; implemented: max"),
        (pooling(activation_function="gelu"), "activation_function is 'gelu'; implemented: relu, log1p_relu"),
        (pooling(threshold=1), "has the key threshold"),
        (lambda files: files.pop("1_SpladePooling/config.json"), "which is not there"),
        (another_module, "Transformer and SpladePooling"),
    ],
)
def test_what_is_not_implemented_is_refused(tmp_path: Path, change: Callable[[Any], Any], words: str):
    files = copy.deepcopy(PLAIN["files"])
    change(files)
    with pytest.raises(CheckpointError, match=words):
        build(write_mlm(tmp_path / "checkpoint", files), tmp_path / "bundle", graphs=GRAPHS)


def test_routes_that_are_not_implemented(tmp_path: Path):
    checkpoint = routed(tmp_path / "checkpoint", "")
    raw = json.loads((checkpoint / "router_config.json").read_text(encoding="utf-8"))
    raw["types"][STATIC] = "sentence_transformers.models.Transformer"
    (checkpoint / "router_config.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(CheckpointError, match="query: Transformer; document: Transformer, SpladePooling"):
        build(checkpoint, tmp_path / "bundle", graphs=GRAPHS)


def test_a_sparse_encoder_without_its_head(tmp_path: Path):
    checkpoint = write_mlm(tmp_path / "checkpoint", PLAIN["files"])
    shutil.copy(DATA / "gte-tiny-random" / "model.safetensors", checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no masked-language-model head \(lm_head.dense.weight\)"):
        build(checkpoint, tmp_path / "bundle", graphs=GRAPHS)


def test_arguments_are_checked(plain: Path):
    with SparseEncoder(plain) as model:
        wrongs: list[dict[str, Any]] = [
            {"max_active_dims": 0},
            {"task": "x"},
            {"device": "cuda"},
            {"pool": {}},
        ]
        for wrong in wrongs:
            with pytest.raises(ConfigError):
                model.encode(TEXTS[0], **wrong)
        with pytest.raises(ConfigError, match="top_k is 0"):
            model.decode(model.encode(TEXTS[0]), top_k=0)
        with pytest.raises(TypeError, match="once"):
            model.encode()


@pytest.mark.slow
def test_tensors_for_programs_that_use_torch(plain: Path, monkeypatch: pytest.MonkeyPatch):
    """The same weights as a sparse tensor, which every method takes."""
    torch = pytest.importorskip("torch")
    with SparseEncoder(plain) as model:
        arrays = model.encode_document(TEXTS)
        monkeypatch.setattr("gte_runtime.compat.sparse_encoder._torch", lambda: torch)
        tensors = model.encode_document(TEXTS)
        assert tensors.is_sparse
        assert tuple(tensors.shape) == arrays.shape
        for row, vector in zip(tensors.to_dense().numpy(), arrays, strict=True):
            np.testing.assert_array_equal(row[vector.indices], vector.values)
            assert np.count_nonzero(row) == len(vector)
        assert model.decode(tensors[0], top_k=3) == model.decode(arrays[0], top_k=3)
