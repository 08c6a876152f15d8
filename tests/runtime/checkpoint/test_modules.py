"""What a checkpoint says of its use, as sentence-transformers writes it down, is heard or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden import Golden

from gte_runtime import Embedder
from gte_runtime.building.build import build
from gte_runtime.checkpoint.modules import Settings, read_settings
from gte_runtime.errors import CheckpointError, ConfigError

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
CLS = {
    "word_embedding_dimension": 64,
    "pooling_mode_cls_token": True,
    "pooling_mode_mean_tokens": False,
    "include_prompt": True,
}


def write(folder: Path, **files: Any) -> Path:
    names = {
        "modules": "modules.json",
        "pooling": "1_Pooling/config.json",
        "prompts": "config_sentence_transformers.json",
    }
    for name, content in files.items():
        path = folder / names[name]
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def test_nothing_said(tmp_path: Path):
    assert read_settings(tmp_path) == Settings({}, "")


@pytest.mark.parametrize("pooling", [CLS, {"pooling_mode": "cls"}, CLS | {"pooling_mode": "cls"}])
def test_as_the_family_does(tmp_path: Path, pooling: Any):
    """First token, then normalised, with a prompt for queries."""
    said = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": None}
    assert read_settings(write(tmp_path, modules=MODULES, pooling=pooling, prompts=said)) == Settings(
        {"query": "query: "}, ""
    )


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {
                "modules": MODULES,
                "pooling": CLS | {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
            },
            "mean_tokens",
        ),
        ({"modules": MODULES, "pooling": CLS | {"pooling_mode_max_tokens": True}}, "cls_token, max_tokens"),
        ({"modules": MODULES, "pooling": {"pooling_mode": "mean"}}, "the pooling is mean"),
        ({"modules": MODULES, "pooling": {}}, "the pooling is none"),
        ({"modules": MODULES}, "which is not there"),
        (
            {
                "modules": [*MODULES, {"type": "sentence_transformers.models.Dense", "path": "3_Dense"}],
                "pooling": CLS,
            },
            "puts a Dense",
        ),
        ({"modules": ["x"]}, "puts a 'x'"),
        ({"modules": "{"}, "modules.json cannot be read"),
        ({"modules": {}}, "holds a dict, expected a list"),
        ({"prompts": {"prompts": ["query: "]}}, "expected names and texts"),
        ({"prompts": {"prompts": {"query": 1}}}, "expected names and texts"),
        ({"prompts": {"prompts": {}, "default_prompt_name": "query"}}, "none of the prompts"),
    ],
)
def test_what_is_refused(tmp_path: Path, files: Any, words: str):
    """A fine-tune that pools in another way would run and be silently wrong."""
    with pytest.raises(CheckpointError, match=words):
        read_settings(write(tmp_path, **files))


@pytest.fixture
def checkpoint(golden: Golden, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / file).symlink_to(golden.checkpoint / file)
    return folder


def test_a_build_hears_it(checkpoint: Path, golden: Golden, tmp_path: Path):
    """Another pooling is no bundle; a default prompt is put before every text unless another is named."""
    write(checkpoint, modules=MODULES, pooling={"pooling_mode": "mean"})
    with pytest.raises(CheckpointError, match="the pooling is mean"):
        build(checkpoint, tmp_path / "bundle", graphs=golden.graphs)
    assert not (tmp_path / "bundle").exists()
    write(
        checkpoint,
        pooling=CLS,
        prompts={"prompts": {"query": "dog: ", "passage": "fox: "}, "default_prompt_name": "passage"},
    )
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
def test_known_prompts_where_the_checkpoint_says_nothing(checkpoint: Path, golden: Golden, tmp_path: Path):
    """Of a model that has a name, prompts are known."""
    manifest = build(checkpoint, tmp_path / "bundle", graphs=golden.graphs, prompts={"query": "query: "})
    assert (manifest.prompts, manifest.default_prompt) == ({"query": "query: "}, "")
