"""A checkpoint's settings, obeyed by every way to use its bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner
from golden import Golden
from numpy.typing import NDArray
from reranking import GRAPHS, RERANKER
from spoil import signed
from stlayout import CLS, MEAN, copy_of, modules, put, put_dense

from gte_runtime import Embedder, Reranker
from gte_runtime.building.build import build
from gte_runtime.bundle.directory import Bundle
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.cli.embed import command
from gte_runtime.cli.tokens import command as tokens_command
from gte_runtime.compat import CrossEncoder, SentenceTransformer
from gte_runtime.errors import BundleCorruptError, CheckpointError, ConfigError, SelfCheckFailed
from gte_runtime.format.manifest import Manifest, parse_manifest
from gte_runtime.integrations.milvus import GteEmbeddingFunction
from gte_runtime.integrations.mteb import GteEncoder
from gte_runtime.proof.oracle import forward

pytestmark = pytest.mark.slow

VARIANTS = ("cpu-fp32", "cpu-int8", "portable-fp16")
WEIGHT: NDArray[np.float32] = (np.random.default_rng(5).normal(size=(24, 64)).astype(np.float32) / 8).astype(
    np.float32
)
BIAS = np.random.default_rng(6).normal(size=24).astype(np.float32)
TEXTS = ["What is the capital of China?", "QUICK brown fox", "a b"]
LONG = "dog " * 40


class Made(NamedTuple):
    """A checkpoint that sets everything, and its bundle."""

    checkpoint: Path
    bundle: Path
    manifest: Manifest


@pytest.fixture(scope="module")
def made(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("settings")
    checkpoint = copy_of(
        golden.checkpoint,
        folder / "fine-tune",
        {
            "modules.json": modules("Transformer", "Pooling", "Dense"),
            "1_Pooling/config.json": MEAN,
            "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": True},
            "config_sentence_transformers.json": {"similarity_fn_name": "dot", "truncate_dim": 20},
        },
    )
    put_dense(checkpoint / "2_Dense", WEIGHT, BIAS)
    manifest = build(checkpoint, folder / "bundle", graphs=golden.graphs, variants=VARIANTS)
    return Made(checkpoint, folder / "bundle", manifest)


@pytest.fixture(scope="module")
def gte(made: Made) -> Iterator[Embedder]:
    with Embedder.open(made.bundle, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(made: Made, gte: Embedder) -> NDArray[np.float64]:
    """By the oracle, in float64: the mean of the lower-cased text's states, the layer, the cut; not
    normalised."""
    with Checkpoint(made.checkpoint) as checkpoint:
        rows = []
        for text in TEXTS:
            ids = np.array([token for token, _ in gte.tokenize(text.lower())])
            states = forward(checkpoint, ids).hidden
            rows.append(np.tanh(states.mean(axis=0) @ WEIGHT.T + BIAS)[:20])
    return np.array(rows)


def test_what_the_manifest_holds(made: Made):
    """All of it, and it is read as it was written."""
    manifest = Bundle.open(made.bundle).manifest
    assert manifest == made.manifest
    assert (manifest.pooling, manifest.normalize, manifest.dim) == (("mean",), False, 24)
    assert (manifest.max_length, manifest.truncate_dim, manifest.similarity) == (16, 20, "dot")
    (layer,) = manifest.dense
    assert (layer.inputs, layer.outputs, layer.activation) == (64, 24, "tanh")
    assert layer.file in manifest.files_of("cpu-int8")
    assert manifest.self_checks[0].norm == pytest.approx(np.linalg.norm(np.tanh(BIAS)), rel=0.9)


@pytest.mark.parametrize(
    ("variant", "limit"), [("cpu-fp32", 2e-5), ("portable-fp16", 3e-3), ("cpu-int8", 0.05)]
)
def test_the_library(made: Made, expected: NDArray[np.float64], variant: str, limit: float):
    """Vectors as the model computes them, and normalised after the cut, in each variant."""
    with Embedder.open(made.bundle, variant=variant, threads=1) as gte:
        plain = gte.encode(TEXTS, normalize=False).dense
        assert plain is not None
        apart = np.linalg.norm(plain - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert apart.max() < limit
        unit = gte.encode(TEXTS).dense
        np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1)[:, None], rtol=1e-5)
        assert gte.info["batch_invariant"] is (variant != "portable-fp16")


def test_the_library_in_all_its_ways(gte: Embedder, expected: NDArray[np.float64]):
    """Streams, states, single texts, other dimensions and lengths: the same bits for the same text."""
    plain = gte.encode(TEXTS, normalize=False).dense
    assert plain is not None
    assert plain.shape == (3, 20)
    assert np.array_equal(gte.states(TEXTS), plain)
    (part,) = gte.stream(TEXTS, normalize=False)
    assert np.array_equal(part.dense, plain)
    for row, text in enumerate(TEXTS):
        assert np.array_equal(gte.encode(text, normalize=False).dense[0], plain[row])
    whole = gte.encode(TEXTS, dim=24, normalize=False).dense
    assert whole is not None
    assert np.array_equal(whole[:, :20], plain)
    with pytest.raises(ConfigError, match="from 1 to 24"):
        gte.encode(TEXTS, dim=25)
    assert gte.encode(LONG).tokens.tolist() == [16]
    assert gte.encode(LONG, max_length=32).tokens.tolist() == [32]
    assert gte.encode(LONG, max_length=8192).tokens > 40
    assert np.array_equal(gte.encode("QUICK").dense, gte.encode("quick").dense)
    assert [vectors.shape for vectors in gte.token_vectors(["a b"])] == [(gte.encode("a b").tokens[0], 64)]
    assert gte.encode(TEXTS).sparse is not None


def test_sentence_transformers(made: Made, gte: Embedder):
    """No Normalize: vectors as they are, cut at 20, compared by their products, texts cut at 16 tokens."""
    plain = gte.encode(TEXTS, normalize=False).dense
    assert plain is not None
    with SentenceTransformer(str(made.bundle), threads=1) as model:
        assert np.array_equal(model.encode(TEXTS), plain)
        assert np.array_equal(model.encode(TEXTS, normalize_embeddings=True), gte.encode(TEXTS).dense)
        assert (model.similarity_fn_name, model.truncate_dim, model.max_seq_length) == ("dot", 20, 16)
        assert model.get_embedding_dimension() == 20
        np.testing.assert_allclose(model.similarity(plain, plain), plain @ plain.T, rtol=1e-5)
        assert model.encode("a", truncate_dim=24).shape == (24,)
    with SentenceTransformer(
        str(made.bundle), threads=1, similarity_fn_name="cosine", truncate_dim=8
    ) as model:
        assert (model.similarity_fn_name, model.truncate_dim) == ("cosine", 8)


def test_mteb(made: Made, gte: Embedder):
    """As sentence-transformers' own wrapper evaluates it."""
    plain = gte.encode(TEXTS, normalize=False).dense
    assert plain is not None
    model = GteEncoder(str(made.bundle), threads=1)
    found = model.encode([{"text": TEXTS}])
    assert np.array_equal(found, plain)
    np.testing.assert_allclose(model.similarity(found, found), plain @ plain.T, rtol=1e-5)
    np.testing.assert_allclose(model.similarity_pairwise(found, found), (plain * plain).sum(1), rtol=1e-5)
    model.gte.close()


def test_the_command_line(made: Made, gte: Embedder):
    """`gte embed` cuts texts and vectors as the checkpoint says, and normalises unless told not to."""
    for flags, normalize in ((), True), (("--no-normalize",), False):
        done = CliRunner().invoke(
            command, ["--model", str(made.bundle), *flags, "--threads", "1", *TEXTS, LONG]
        )
        assert done.exit_code == 0, done.output
        found = [json.loads(line) for line in done.stdout.splitlines()]
        wanted = gte.encode([*TEXTS, LONG], normalize=normalize).dense
        assert np.array_equal(np.array([row["dense"] for row in found], np.float32), wanted)
        assert found[3]["truncated"] is True


def test_the_server(made: Made, gte: Embedder):
    """A request that names no length and no dimensions gets the checkpoint's; it may name larger ones."""
    pytest.importorskip("msgspec", reason="the extra server is not installed")
    from serving import Here

    from gte_runtime.server.models import EmbeddingModel
    from gte_runtime.server.options import Options

    model = EmbeddingModel("m", gte)
    assert (model.length_limit(None), model.length_limit(100), model.max_length) == (16, 100, 8192)
    assert model.dim == 24
    (tokens,) = model.tokenize([LONG], max_length=model.length_limit(None), truncate=True)
    assert len(tokens.ids) == 16
    here = Here(gte, Options())
    try:
        body = here.post("/v1/embeddings", {"input": [*TEXTS, LONG]}).json()
        found = np.array([row["embedding"] for row in body["data"]], np.float32)
        assert np.array_equal(found, gte.encode([*TEXTS, LONG]).dense)
        plain = here.post("/embed", {"inputs": TEXTS, "normalize": False}).json()
        assert np.array_equal(np.array(plain, np.float32), gte.encode(TEXTS, normalize=False).dense)
        whole = here.post("/v1/embeddings", {"input": TEXTS, "dimensions": 24}).json()
        assert len(whole["data"][0]["embedding"]) == 24
        info = here.get("/info").json()
        assert (info["model_type"], info["max_input_length"]) == ({"embedding": {"pooling": "mean"}}, 16)
    finally:
        here.close()


def test_a_default_prompt_in_all_ways(golden: Golden, tmp_path: Path):
    """Every method that is given texts puts it before them, where the call names none; and `gte tokens`."""
    checkpoint = copy_of(
        golden.checkpoint,
        tmp_path / "prompted",
        {
            "modules.json": modules("Transformer", "Pooling", "Normalize"),
            "1_Pooling/config.json": CLS,
            "config_sentence_transformers.json": {"prompts": {"q": "find: "}, "default_prompt_name": "q"},
        },
    )
    build(checkpoint, tmp_path / "bundle", graphs=golden.graphs, variants=("cpu-fp32",))
    text, front = "a b", "find: a b"
    with Embedder.open(tmp_path / "bundle", threads=1) as gte:
        dense = gte.encode([text, "cat"], sparse=False).dense
        plain = gte.encode([front, "find: cat"], sparse=False, prompt_name="").dense
        np.testing.assert_array_equal(dense, plain)
        states = gte.token_vectors(text)[0]
        np.testing.assert_array_equal(states[:1], gte.encode(text, normalize=False).dense)
        np.testing.assert_array_equal(gte.states(text), states[:1])
        assert len(gte.tokenize(text)) == len(states) == gte.encode(text).tokens[0]
        words = gte.token_weights(text)[0]
        assert "ind" in "".join(words)
        np.testing.assert_allclose(gte.score([(text, "cat")], 1, 0), [dense[0] @ dense[1]], rtol=1e-6)
        bare = gte.encode([text, "cat"], sparse=False, prompt_name="").dense
        found = gte.score([(text, "cat")], 1, 0, prompt_name="")
        np.testing.assert_allclose(found, [bare[0] @ bare[1]], rtol=1e-6)
        model = SentenceTransformer(tmp_path / "bundle", threads=1)
        np.testing.assert_array_equal(model.encode(text, output_value="token_embeddings"), states)
    done = CliRunner().invoke(tokens_command, [text, "--model", str(tmp_path / "bundle")])
    first, *table = done.stdout.splitlines()
    assert f"({len(table)} tokens" in first


def test_a_store_knows_the_cut(made: Made, gte: Embedder):
    """The length that a Milvus collection is made with is that of the vectors."""
    function = GteEmbeddingFunction(gte)
    assert function.dim["dense"] == len(function.encode_documents(["a b"])["dense"][0]) == 20


def test_several_poolings_after_each_other(golden: Golden, tmp_path: Path):
    """cls and lasttoken: upstream's own states of both tokens."""
    pooling = {"pooling_mode": ["cls", "lasttoken"]}
    kinds = modules("Transformer", "Pooling", "Normalize")
    files = {"modules.json": kinds, "1_Pooling/config.json": pooling}
    checkpoint = copy_of(golden.checkpoint, tmp_path / "both", files)
    assert build(checkpoint, tmp_path / "bundle", graphs=golden.graphs).dim == 128
    with Embedder.open(tmp_path / "bundle", threads=1) as gte:
        found = gte.states(golden.texts[:4])
    last = [golden.last(text) for text in range(4)]
    np.testing.assert_allclose(found[:, :64], golden.cls()[:4], atol=2e-4)
    np.testing.assert_allclose(found[:, 64:], last, atol=2e-4)


def test_layers_that_do_not_fit(golden: Golden, tmp_path: Path):
    """A layer for another width is refused before anything is written."""
    files = {"modules.json": modules("Transformer", "Pooling", "Dense"), "1_Pooling/config.json": CLS}
    checkpoint = copy_of(golden.checkpoint, tmp_path / "x", files)
    put_dense(checkpoint / "2_Dense", WEIGHT[:, :32], None)
    with pytest.raises(CheckpointError, match="in_features is 32, what comes before it gives 64"):
        build(checkpoint, tmp_path / "bundle", graphs=golden.graphs)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("pooling", ["mean_sqrt_len_tokens", "max", "cls"])
def test_the_self_check_knows_the_pooling(made: Made, tmp_path: Path, pooling: str):
    """A bundle whose manifest names another pooling does not open: without the layer, mean and mean_sqrt_len
    differ in length only."""
    folder = tmp_path / "copy"
    shutil.copytree(made.bundle, folder)
    raw = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_bytes(signed(raw | {"pooling": [pooling]}))
    with pytest.raises(SelfCheckFailed):
        Embedder.open(folder, threads=1)


def test_the_self_check_knows_the_length(golden: Golden, tmp_path: Path):
    """Mean and mean_sqrt_len give the same direction, so the length is checked as well."""
    kinds = modules("Transformer", "Pooling")
    files = {"modules.json": kinds, "1_Pooling/config.json": MEAN}
    checkpoint = copy_of(golden.checkpoint, tmp_path / "mean", files)
    build(checkpoint, tmp_path / "bundle", graphs=golden.graphs)
    file = tmp_path / "bundle" / "manifest.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    file.write_bytes(signed(raw | {"pooling": ["mean_sqrt_len_tokens"]}))
    with pytest.raises(SelfCheckFailed, match=r"has the length .* before it is normalised, recorded is"):
        Embedder.open(tmp_path / "bundle", threads=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pooling": []}, "in pooling different ones of"),
        ({"pooling": ["mean", "mean"]}, "in pooling different ones of"),
        ({"pooling": ["median"]}, "in pooling different ones of"),
        ({"similarity": "maxsim"}, "similarity of cosine"),
        ({"activation": "tanh"}, "activation sigmoid or identity"),
        ({"max_length": 8193}, "max_length up to 8192"),
        ({"truncate_dim": 25}, "truncate_dim up to 24"),
        ({"normalize": 1}, "normalize = 1"),
        ({"dense": []}, "24 values|64 values|smallest_dim|truncate_dim|files"),
    ],
)
def test_fields_of_a_manifest_are_checked(made: Made, change: dict[str, Any], words: str):
    """Like all others: types, bounds, and that they fit each other."""
    raw = json.loads((made.bundle / "manifest.json").read_text(encoding="utf-8"))
    with pytest.raises(BundleCorruptError, match=words):
        parse_manifest(signed(raw | change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": 63}, "dense.0.inputs 64"),
        ({"outputs": 23}, r"files.dense-1.bin.size"),
        ({"outputs": 0}, "allowed are 1 to"),
        ({"activation": "gelu"}, "dense.0.activation of identity"),
        ({"file": "../x"}, "plain file names"),
        ({"file": "other.bin"}, "other.bin in the list of files"),
    ],
)
def test_a_layer_in_a_manifest_is_checked(made: Made, change: dict[str, Any], words: str):
    """Its numbers decide how much is read and multiplied."""
    raw = json.loads((made.bundle / "manifest.json").read_text(encoding="utf-8"))
    raw["dense"][0] |= change
    with pytest.raises(BundleCorruptError, match=words):
        parse_manifest(signed(raw))


NEW = ("pooling", "dense", "normalize", "max_length", "truncate_dim", "similarity", "activation")


def test_a_bundle_from_before_opens(tiny_bundle: Path):
    """Its manifest has none of these fields, and no lengths of vectors in its self-check."""
    raw = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    for field in NEW:
        del raw[field]
    for check in raw["self_checks"]:
        del check["norm"]
    manifest = parse_manifest(signed(raw))
    assert (manifest.pooling, manifest.dense, manifest.normalize) == (("cls",), (), True)
    assert (manifest.max_length, manifest.truncate_dim, manifest.similarity) == (0, 0, "cosine")
    assert (manifest.activation, manifest.dim, manifest.needs_states) == ("sigmoid", 64, False)


def test_a_cross_encoder_without_a_sigmoid(tmp_path: Path):
    """Its config says Identity: `predict` gives raw scores. Pairs are cut where its tokenizer says."""
    checkpoint = copy_of(RERANKER, tmp_path / "reranker", {"tokenizer_config.json": {"model_max_length": 24}})
    raw = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    said = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.0"}}
    put(checkpoint, {"config.json": raw | said})
    manifest = build(checkpoint, tmp_path / "bundle", graphs=GRAPHS)
    assert (manifest.activation, manifest.max_length) == ("identity", 24)
    pairs = [("What is it?", "It is a dog."), ("a", LONG)]
    with CrossEncoder(str(tmp_path / "bundle"), threads=1) as model:
        assert model.max_length == 24
        with Reranker.open(tmp_path / "bundle", threads=1) as reranker:
            assert np.array_equal(model.predict(pairs), reranker.score(pairs))
            assert reranker.evaluate(pairs).tokens[1] == 24
            assert reranker.evaluate(pairs, max_length=32).tokens[1] == 32
