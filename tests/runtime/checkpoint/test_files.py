"""What a user may point at: it is found, or named for what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden import Golden
from stlayout import CLS, copy_of, modules, put

from gte_runtime.building.build import build
from gte_runtime.checkpoint.fetching import fetch_checkpoint
from gte_runtime.checkpoint.files import open_folder
from gte_runtime.checkpoint.modules import read_settings
from gte_runtime.checkpoint.shards import WEIGHTS
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.errors import CheckpointError, DownloadError

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": "Alibaba-NLP/base"}},
            ("LORA for Alibaba-NLP/base", "merge it into its base model"),
        ),
        # Trainers put the tokenizer beside an adapter, and some the base model's config.
        (
            {"adapter_config.json": {}, "config.json": "{}", "tokenizer.json": "{}"},
            ("adapter (PEFT)", "merge"),
        ),
        ({"adapter_config.json": "{", "model.safetensors": ""}, ("adapter (PEFT)",)),
        ({"gte-Q4_K_M.gguf": "GGUF"}, ("gte-Q4_K_M.gguf", "made for llama.cpp")),
        (
            {f"checkpoint-{step}/config.json": "{}" for step in (9, 500, 1000)},
            ("output folder of a trainer", "checkpoint-1000"),
        ),
        ({}, ("no config.json",)),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, files: dict[str, Any], words: tuple[str, ...]):
    """One line with what it is and the way out."""
    folder = tmp_path / "given"
    folder.mkdir()
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(put(folder, files))
    assert str(caught.value).startswith(("given", "no config.json in given"))
    for word in words:
        assert word in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file(tmp_path: Path):
    """A gguf file by its own path."""
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"x.gguf is a gguf file"):
        open_folder(tmp_path / "x.gguf")


def test_a_folder_of_a_trainer(golden: Golden, tmp_path: Path):
    """checkpoint-500 itself is a checkpoint; what the trainer keeps beside the weights is not looked at."""
    folder = copy_of(golden.checkpoint, tmp_path / "run" / "checkpoint-500", {"trainer_state.json": "{}"})
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"\x80\x02")
    with Checkpoint(folder) as opened:
        assert opened.folder.name == "checkpoint-500"
        assert opened.has_sparse_head


@pytest.mark.slow
def test_the_encoder_in_a_folder(golden: Golden, tmp_path: Path):
    """sentence-transformers before 2.3 keeps it in 0_Transformer, with its settings."""
    folder = tmp_path / "old"
    copy_of(
        golden.checkpoint, folder / "0_Transformer", {"sentence_bert_config.json": {"max_seq_length": 99}}
    )
    put(
        folder,
        {
            "modules.json": modules("Transformer", "Pooling", encoder="0_Transformer"),
            "1_Pooling/config.json": CLS,
        },
    )
    with Checkpoint(folder) as opened:
        assert (opened.encoder, opened.folder.name) == ("0_Transformer", "old")
        assert read_settings(opened.folder).max_length == 99
    manifest = build(folder, tmp_path / "bundle", graphs=golden.graphs)
    assert (manifest.model, manifest.max_length) == ("old", 99)


def cached(golden: Golden, folder: Path, *commits: str, main: str = "") -> Path:
    """A repository in the hub's cache, with weights, config and tokenizer alone."""
    for commit in commits:
        copy_of(golden.checkpoint, folder / "snapshots" / commit)
    if main:
        put(folder, {"refs/main": main})
    return folder


def note(folder: Path, *names: str, commit: str = COMMIT) -> None:
    """Notes of the cache that the commit has no such files."""
    put(folder, {f".no_exist/{commit}/{name}": "" for name in names})


@pytest.mark.parametrize(
    ("commits", "main", "chosen"),
    [((COMMIT,), "", COMMIT), ((COMMIT, OTHER), OTHER, OTHER), ((COMMIT,), OTHER, COMMIT)],
)
def test_a_folder_of_the_hubs_cache(
    golden: Golden, tmp_path: Path, commits: tuple[str, ...], main: str, chosen: str
):
    """models--OWNER--NAME is the snapshot of main, or the only one; name and origin are the repository's."""
    folder = cached(golden, tmp_path / "models--me--fine-tune", *commits, main=main)
    found = open_folder(folder)
    assert found.root == folder / "snapshots" / chosen
    assert (found.name, found.origin) == ("fine-tune", f"me/fine-tune@{chosen}")
    assert open_folder(folder / "snapshots" / chosen) == found


def test_several_snapshots(golden: Golden, tmp_path: Path):
    """None is main's: they are named."""
    folder = cached(golden, tmp_path / "models--me--x", COMMIT, OTHER)
    with pytest.raises(
        CheckpointError, match=r"models--me--x has 2 snapshots .* models--me--x/snapshots/aaaa"
    ):
        open_folder(folder)


@pytest.mark.slow
def test_a_file_that_was_never_downloaded(golden: Golden, tmp_path: Path):
    """A cache as AutoModel leaves it does not tell the pooling: refused until it notes that there is none."""
    folder = cached(golden, tmp_path / "models--me--x", COMMIT, main=COMMIT)
    for missing in ("modules.json", "tokenizer_config.json"):
        with pytest.raises(CheckpointError) as caught:
            build(folder, tmp_path / "bundle", graphs=golden.graphs)
        for word in (
            f"of me/x in the hub's cache lacks {missing}",
            "pooling",
            "`gte pull me/x`",
            "snapshots/aaaa",
        ):
            assert word in str(caught.value)
        note(folder, missing)
    manifest = build(folder, tmp_path / "bundle", graphs=golden.graphs)
    assert (manifest.model, manifest.origin) == ("x", f"me/x@{COMMIT}")


def test_files_that_modules_json_asks_for(golden: Golden, tmp_path: Path):
    """Where there is a modules.json, sentence-transformers reads more, which may be missing as well."""
    folder = cached(golden, tmp_path / "models--me--x", COMMIT, main=COMMIT)
    put(
        folder / "snapshots" / COMMIT,
        {"modules.json": modules("Transformer", "Pooling"), "1_Pooling/config.json": CLS},
    )
    for missing in (
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "config_sentence_transformers.json",
    ):
        with pytest.raises(CheckpointError, match=f"lacks {missing}"):
            read_settings(open_folder(folder))
        note(folder, missing)
    assert not read_settings(open_folder(folder)).normalize


class Repository:
    """Files that are asked for, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()

    def fetch(self, name: str) -> Path | None:
        self.asked.append(name)
        return self.folder / name if (self.folder / name).exists() else None

    def require(self, name: str) -> Path:
        path = self.fetch(name)
        if path is None:
            raise DownloadError(f"no {name}")
        return path


def test_what_is_downloaded(golden: Golden, tmp_path: Path):
    """Config and modules before weights, every file that the build reads, and shards by their index."""
    folder = tmp_path / "x"
    copy_of(golden.checkpoint, folder / "0_Transformer")
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    put(
        folder,
        {
            "modules.json": modules(*kinds, encoder="0_Transformer"),
            "1_Pooling/config.json": CLS,
            "2_Dense/config.json": "{}",
            "2_Dense/model.safetensors": "",
            "0_Transformer/sentence_roberta_config.json": "{}",
        },
    )
    repository = Repository(folder)
    fetch_checkpoint(repository.fetch, repository.require)
    assert repository.asked[:2] == ["modules.json", "0_Transformer/config.json"]
    assert repository.asked[-1] == "0_Transformer/model.safetensors"
    assert {path for path in repository.asked if (folder / path).exists()} == {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }
    assert "0_Transformer/sentence_xlnet_config.json" not in repository.asked
    weights = folder / "0_Transformer" / WEIGHTS
    weights.rename(weights.with_name("model-00001-of-00001.safetensors"))
    put(
        folder,
        {
            "0_Transformer/model.safetensors.index.json": {
                "weight_map": {"x": "model-00001-of-00001.safetensors"}
            }
        },
    )
    repository = Repository(folder)
    fetch_checkpoint(repository.fetch, repository.require)
    assert repository.asked[-1] == "0_Transformer/model-00001-of-00001.safetensors"


def test_what_cannot_be_built_is_seen_before_the_weights(golden: Golden, tmp_path: Path):
    """Another model's config, and a module that is not implemented."""
    folder = copy_of(golden.checkpoint, tmp_path / "x", {"config.json": {"model_type": "bert"}})
    for words in ("model_type is 'bert'", "models.LSTM"):
        repository = Repository(folder)
        with pytest.raises(CheckpointError, match=words):
            fetch_checkpoint(repository.fetch, repository.require)
        assert WEIGHTS not in repository.asked
        put(folder, {"modules.json": modules("Transformer", "LSTM")})
