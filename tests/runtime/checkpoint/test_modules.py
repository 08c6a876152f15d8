"""What a checkpoint says of its use is heard or refused by name, whatever release wrote it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import Golden
from stlayout import CLS, MEAN, copy_of, modules, put, put_dense

from gte_runtime import Embedder
from gte_runtime.building.build import build
from gte_runtime.checkpoint.config import parse_config
from gte_runtime.checkpoint.files import Folder, open_folder
from gte_runtime.checkpoint.modules import Dense, Settings, read_settings
from gte_runtime.errors import CheckpointError, ConfigError

PLAIN = {"modules.json": modules("Transformer", "Pooling", "Normalize"), "1_Pooling/config.json": CLS}
RERANKER = {"modules.json": modules("Transformer")}
PROMPTS = "config_sentence_transformers.json"
ENCODER = "sentence_bert_config.json"


def read(folder: Path, files: dict[str, Any], **options: Any) -> Settings:
    return read_settings(open_folder(put(folder, files)), **options)


def test_nothing_said(tmp_path: Path):
    """A checkpoint of weights alone: as the family's authors use it."""
    assert read(tmp_path, {}) == Settings({}, "")


@pytest.mark.parametrize(
    "pooling", [CLS, {"pooling_mode": "cls"}, {"pooling_mode": ["cls"]}, CLS | {"pooling_mode": "cls"}]
)
def test_as_the_family_does(tmp_path: Path, pooling: Any):
    """First token, then normalised, with a prompt for queries."""
    said = {"prompts": {"query": "query: ", "document": "", "x": None}, "default_prompt_name": None}
    found = read(tmp_path, {**PLAIN, "1_Pooling/config.json": pooling, PROMPTS: said})
    assert found == Settings({"query": "query: "}, "")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"1_Pooling/config.json": MEAN}, {"pooling": ("mean",)}),
        ({"1_Pooling/config.json": {"pooling_mode": "max"}}, {"pooling": ("max",)}),
        ({"1_Pooling/config.json": {"pooling_mode_lasttoken": True}}, {"pooling": ("lasttoken",)}),
        (
            {"1_Pooling/config.json": {"pooling_mode_weightedmean_tokens": True}},
            {"pooling": ("weightedmean",)},
        ),
        (
            # In the order of their files, not of the keys.
            {
                "1_Pooling/config.json": {
                    "pooling_mode_mean_sqrt_len_tokens": True,
                    "pooling_mode_max_tokens": True,
                    "pooling_mode_cls_token": True,
                }
            },
            {"pooling": ("cls", "max", "mean_sqrt_len_tokens")},
        ),
        ({"1_Pooling/config.json": {"pooling_mode": ["mean", "cls"]}}, {"pooling": ("mean", "cls")}),
        ({"modules.json": modules("Transformer", "Pooling")}, {"normalize": False}),
        ({"modules.json": modules("Transformer", "Pooling", "Dropout")}, {"normalize": False}),
        # As release 6 names the same modules.
        (
            {
                "modules.json": [
                    {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
                    {
                        "path": "1_Pooling",
                        "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
                    },
                ]
            },
            {"normalize": False},
        ),
        ({ENCODER: {"max_seq_length": 512, "do_lower_case": True}}, {"max_length": 512, "lower_case": True}),
        ({ENCODER: {"max_seq_length": None, "do_lower_case": False}}, {}),
        (
            # As release 6 writes it.
            {
                ENCODER: {
                    "transformer_task": "feature-extraction",
                    "modality_config": {
                        "text": {"method": "forward", "method_output_name": "last_hidden_state"}
                    },
                    "module_output_name": "token_embeddings",
                }
            },
            {},
        ),
        ({"sentence_roberta_config.json": {"max_seq_length": 128}}, {"max_length": 128}),
        ({ENCODER: {"tokenizer_args": {"model_max_length": 64}, "max_seq_length": 32}}, {"max_length": 64}),
        ({"tokenizer_config.json": {"model_max_length": 512}}, {"max_length": 512}),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, {}),
        (
            {ENCODER: {"max_seq_length": 256}, "tokenizer_config.json": {"model_max_length": 512}},
            {"max_length": 256},
        ),
        (
            {PROMPTS: {"similarity_fn_name": "dot", "truncate_dim": 32}},
            {"similarity": "dot", "truncate_dim": 32},
        ),
        ({PROMPTS: {"similarity_fn_name": None, "truncate_dim": None}}, {}),
        (
            {PROMPTS: {"prompts": {"query": "q: "}, "default_prompt_name": "query"}},
            {"prompts": {"query": "q: "}, "default_prompt": "query"},
        ),
    ],
)
def test_what_is_heard(tmp_path: Path, files: dict[str, Any], expected: dict[str, Any]):
    """Each setting alone, and nothing else changes with it."""
    assert read(tmp_path, {**PLAIN, **files}) == replace(Settings(), **expected)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"1_Pooling/config.json": {"pooling_mode": "median"}},
            "the pooling is median; implemented: cls, max",
        ),
        ({"1_Pooling/config.json": {"pooling_mode": 3}}, "the pooling is 3"),
        ({"1_Pooling/config.json": {"pooling_mode": ["mean", "mean"]}}, "mean, mean, one of them twice"),
        ({"1_Pooling/config.json": {}}, "the pooling is none"),
        ({"1_Pooling/config.json": CLS | {"include_prompt": False}}, "include_prompt is false"),
        ({"1_Pooling/config.json": CLS | {"pooling_mode_median": True}}, "has the key pooling_mode_median"),
        ({"1_Pooling/config.json": CLS | {"pooling_mode_max_tokens": "yes"}}, "expected true or false"),
        (
            {"modules.json": modules("Transformer", "Poolings")},
            "puts a sentence_transformers.models.Poolings",
        ),
        ({"modules.json": modules("Transformer", "Pooling", "LayerNorm")}, "models.LayerNorm behind"),
        ({"modules.json": modules("Transformer", "Pooling", "LSTM")}, "models.LSTM behind"),
        ({"modules.json": [{"type": "custom_st.Transformer", "path": ""}]}, "puts a custom_st.Transformer"),
        ({"modules.json": modules("Pooling")}, "has a Pooling in place 0"),
        ({"modules.json": modules("Transformer")}, "has no Pooling"),
        ({"modules.json": modules("Transformer", "Pooling", "Normalize", "Normalize")}, "implemented is one"),
        ({"modules.json": modules("Transformer", "Normalize")}, "has Normalize; implemented is one Pooling"),
        ({"modules.json": modules("Transformer", "Pooling", "Pooling")}, "has Pooling, Pooling"),
        (
            {"modules.json": modules("Transformer", encoder="..") + modules("x", "Pooling")[1:]},
            "keeps the trans",
        ),
        (
            {"modules.json": modules("Transformer", "Pooling", "Dense")},
            "names 2_Dense/config.json, which is not",
        ),
        ({"modules.json": ["x"]}, "puts a 'x'"),
        ({"modules.json": "{"}, "modules.json cannot be read"),
        ({"modules.json": {}}, "holds a dict, expected a list"),
        ({ENCODER: {"max_seq_length": "512"}}, "the longest text is '512'"),
        ({ENCODER: {"max_seq_length": 0}}, "the longest text is 0"),
        ({ENCODER: {"do_lower_case": 1}}, "do_lower_case is 1"),
        ({ENCODER: {"query_length": 32}}, "query_length is 32"),
        ({ENCODER: {"processing_kwargs": {"text": {"padding": "max_length"}}}}, "processing_kwargs is"),
        ({ENCODER: {"transformer_task": "fill-mask"}}, "transformer_task is 'fill-mask'"),
        ({ENCODER: {"config_args": {"rope_theta": 1}}}, "config_args has the key rope_theta"),
        (
            {ENCODER: {"tokenizer_args": {"truncation_side": "left"}}},
            "tokenizer_args has the key truncation_side",
        ),
        ({ENCODER: {"tokenizer_args": 3}}, "expected an object"),
        (
            {
                ENCODER: {
                    "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}
                }
            },
            "modality_config takes .*pooler_output",
        ),
        ({ENCODER: {"temperature": 3}}, "has the key temperature"),
        ({"tokenizer_config.json": {"model_max_length": -1}}, "the longest text is -1"),
        ({PROMPTS: {"prompts": ["query: "]}}, "expected names and texts"),
        ({PROMPTS: {"prompts": {"query": 1}}}, "expected names and texts"),
        ({PROMPTS: {"prompts": {}, "default_prompt_name": "query"}}, "none of the prompts"),
        ({PROMPTS: {"similarity_fn_name": "maxsim"}}, "similarity_fn_name is 'maxsim'"),
        ({PROMPTS: {"truncate_dim": 0}}, "truncate_dim is 0"),
        ({PROMPTS: {"model_type": "SparseEncoder"}}, "model_type is 'SparseEncoder'"),
        ({PROMPTS: {"model_type": "CrossEncoder"}}, "those of an embedding model"),
        ({PROMPTS: {"post_process": "x"}}, "has the key post_process"),
    ],
)
def test_what_is_refused(tmp_path: Path, files: dict[str, Any], words: str):
    """A fine-tune that is used in another way would run and be silently wrong."""
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path, {**PLAIN, **files})


def test_a_missing_pooling(tmp_path: Path):
    """modules.json names a folder that was not downloaded."""
    with pytest.raises(CheckpointError, match=r"names 1_Pooling/config.json, which is not there"):
        read(tmp_path, {"modules.json": PLAIN["modules.json"]})


@pytest.mark.parametrize(
    "files",
    [{"1_Pooling/config.json": CLS | {"new_key": 1}}, {PROMPTS: {"new_key": 1}}, {ENCODER: {"new": 1}}],
)
def test_unknown_keys_can_be_accepted(tmp_path: Path, files: dict[str, Any]):
    """--ignore-unused, as for those of config.json."""
    assert read(tmp_path, {**PLAIN, **files}, ignore_unknown=True) == Settings()


DENSE = {"in_features": 64, "out_features": 8, "bias": True, "activation_function": "torch.nn.Identity"}
WITH_DENSE = {**PLAIN, "modules.json": modules("Transformer", "Pooling", "Dense", "Normalize")}


def test_layers_after_the_pooling(tmp_path: Path):
    """Of an activation only the last part of its path counts; without one it is Tanh, as in the original."""
    files = {
        "modules.json": modules("Transformer", "Pooling", "Dense", "Dropout", "Dense"),
        "2_Dense/config.json": {"in_features": 64, "out_features": 8, "bias": False},
        "4_Dense/config.json": {"in_features": 8, "out_features": 4, "activation_function": "torch.nn.ReLU"},
    }
    found = read(tmp_path, PLAIN | files)
    assert found.dense == (Dense("2_Dense", 64, 8, False, "tanh"), Dense("4_Dense", 8, 4, True, "relu"))
    assert not found.normalize


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"activation_function": "torch.nn.modules.activation.GELU"}, "GELU'; implemented: identity, tanh"),
        ({"activation_function": "mine.Tanh"}, "activation_function is 'mine.Tanh'"),
        ({"activation_function": None}, "activation_function is None"),
        ({"in_features": 0}, "in_features is 0"),
        ({"out_features": True}, "out_features is True"),
        ({"use_residual": True}, "use_residual is set"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
        ({"dropout": 0.1}, "has the key dropout"),
    ],
)
def test_layers_that_are_refused(tmp_path: Path, config: dict[str, Any], words: str):
    """Each by the name of what is not implemented."""
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path, WITH_DENSE | {"2_Dense/config.json": DENSE | config})


def test_the_weights_of_a_layer(tmp_path: Path):
    """As they are stored; a file that contradicts its config, or holds NaN, is refused; so is a pickle."""
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    put_dense(tmp_path / "2_Dense", weight, np.ones(2, np.float32))
    folder = Folder(tmp_path, "x")
    found, bias = Dense("2_Dense", 3, 2, True, "tanh").read(folder)
    assert np.array_equal(found, weight)
    assert np.array_equal(bias, [1, 1])
    for odd in (Dense("2_Dense", 2, 3, True, "tanh"), Dense("2_Dense", 3, 2, False, "tanh")):
        with pytest.raises(CheckpointError, match=r"2_Dense/model.safetensors has .*; config.json says"):
            odd.read(folder)
    put_dense(tmp_path / "3_Dense", weight * np.nan, None)
    with pytest.raises(CheckpointError, match=r"3_Dense/model.safetensors holds NaN"):
        Dense("3_Dense", 3, 2, False, "tanh").read(folder)
    with pytest.raises(CheckpointError, match="4_Dense has no weights"):
        Dense("4_Dense", 3, 2, False, "tanh").read(folder)
    put(tmp_path, {"4_Dense/pytorch_model.bin": "x"})
    with pytest.raises(CheckpointError, match="4_Dense has only pickled weights"):
        Dense("4_Dense", 3, 2, False, "tanh").read(folder)


def test_a_reranker(tmp_path: Path):
    """What a cross-encoder's files say, in its own config.json, too; prompts and poolings are not for it."""
    said = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    assert read(tmp_path, {**RERANKER, PROMPTS: said}, reranker=True) == Settings(activation="identity")
    for files, words in (
        ({PROMPTS: {"activation_fn": "torch.nn.Softmax"}}, "activation_fn is 'torch.nn.Softmax'"),
        ({PROMPTS: {"prompts": {"query": "q: "}}}, "has prompts .query. for a reranker"),
        ({PROMPTS: {"model_type": "SentenceTransformer"}}, "those of a reranker"),
        (
            {"modules.json": PLAIN["modules.json"], "1_Pooling/config.json": CLS},
            "puts a Pooling behind a reranker",
        ),
    ):
        with pytest.raises(CheckpointError, match=words):
            read(tmp_path, {**RERANKER, **files}, reranker=True)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ""),
        ({"sentence_transformers": {"version": "4.0.1"}}, ""),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "sigmoid"),
    ],
)
def test_the_activation_in_a_config(golden: Golden, said: dict[str, Any], expected: str):
    """Of cross-encoders, before release 4 and since."""
    raw = json.loads((golden.checkpoint / "config.json").read_text(encoding="utf-8"))
    found = parse_config(raw | said)
    assert found.activation == expected
    assert not found.unknown
    with pytest.raises(CheckpointError, match=r"sbert_ce_default_activation_function is 'torch.nn.Tanh'"):
        parse_config(raw | {"sbert_ce_default_activation_function": "torch.nn.Tanh"})


def test_a_build_hears_it(golden: Golden, tmp_path: Path):
    """Another pooling is no bundle; a default prompt is put before every text unless another is named."""
    checkpoint = copy_of(golden.checkpoint, tmp_path / "checkpoint", PLAIN)
    put(checkpoint, {"1_Pooling/config.json": {"pooling_mode": "median"}})
    with pytest.raises(CheckpointError, match="the pooling is median"):
        build(checkpoint, tmp_path / "bundle", graphs=golden.graphs)
    assert not (tmp_path / "bundle").exists()
    said = {"prompts": {"query": "dog: ", "passage": "fox: "}, "default_prompt_name": "passage"}
    put(checkpoint, {"1_Pooling/config.json": CLS, PROMPTS: said})
    build(checkpoint, tmp_path / "bundle", graphs=golden.graphs, prompts={"other": "not used"})
    with Embedder.open(tmp_path / "bundle", threads=1) as gte:
        assert gte.manifest.prompts == {"query": "dog: ", "passage": "fox: "}
        plain = gte.encode(["fox: a", "dog: a", "a"], prompt_name="").dense
        for row, name in enumerate((None, "query")):
            assert (gte.encode("a", prompt_name=name).dense == plain[row]).all()
            (part,) = gte.stream(["a"], prompt_name=name)
            assert (part.dense == plain[row]).all()
        wrong: list[Any] = ["other", 3]
        for name in wrong:
            with pytest.raises(ConfigError, match="its prompts are query, passage"):
                gte.encode("a", prompt_name=name)


def test_a_model_without_prompts(tiny_bundle: Path):
    with (
        Embedder.open(tiny_bundle, threads=1) as gte,
        pytest.raises(ConfigError, match="has no prompt 'query'; it has none"),
    ):
        gte.encode("a", prompt_name="query")


@pytest.mark.slow
def test_known_prompts_where_the_checkpoint_says_nothing(golden: Golden, tmp_path: Path):
    """Of a model that has a name, prompts are known."""
    checkpoint = copy_of(golden.checkpoint, tmp_path / "checkpoint")
    manifest = build(checkpoint, tmp_path / "bundle", graphs=golden.graphs, prompts={"query": "query: "})
    assert (manifest.prompts, manifest.default_prompt) == ({"query": "query: "}, "")
