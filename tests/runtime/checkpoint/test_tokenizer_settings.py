"""What stands beside tokenizer.json changes texts as it does at home."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from golden import Golden
from stlayout import put
from tokenizers import models, normalizers

from gte_runtime.checkpoint.files import Folder
from gte_runtime.checkpoint.tokenizer import read_tokenizer
from gte_runtime.errors import CheckpointError

CONFIG = "tokenizer_config.json"


@pytest.fixture
def folder(golden: Golden, tmp_path: Path) -> Path:
    shutil.copyfile(golden.checkpoint / "tokenizer.json", tmp_path / "tokenizer.json")
    return tmp_path


def read(folder: Path, lower_case: bool = False) -> bytes:
    return read_tokenizer(Folder(folder, "x"), "", lower_case)


def ids(data: bytes, text: str) -> list[int]:
    return list(tokenizers.Tokenizer.from_str(data.decode()).encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("vocab.txt", r"no tokenizer.json in x; .* there is vocab.txt: load the tokenizer with transformers"),
        ("optimizer.pt", "copy that of the model that was trained"),
    ],
)
def test_no_tokenizer(tmp_path: Path, there: str, words: str):
    """A trainer's folder may lack it, an old one has another form of it."""
    with pytest.raises(CheckpointError, match=words):
        read(put(tmp_path, {there: "x"}))


def test_nothing_to_change(folder: Path):
    """The very bytes, though a config says what tokenizer.json says too."""
    data = (folder / "tokenizer.json").read_bytes()
    assert read(folder) == data
    raw = json.loads(data)
    added = {str(token["id"]): {"content": token["content"]} for token in raw["added_tokens"]}
    put(folder, {CONFIG: {"added_tokens_decoder": added, "do_lower_case": True, "truncation_side": "right"}})
    assert read(folder) == data  # do_lower_case is read by BERT's tokenizer only


def test_lower_case_comes_first(folder: Path):
    """As sentence-transformers puts a Lowercase in front of what is there; twice is once."""
    data = read(folder, lower_case=True)
    plain = (folder / "tokenizer.json").read_bytes()
    assert ids(data, "QUICK Brown Ä") == ids(plain, "quick brown ä") != ids(plain, "QUICK Brown Ä")
    (folder / "tokenizer.json").write_bytes(data)
    assert read(folder, lower_case=True) == data


def bert(folder: Path, **options: bool) -> None:
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece({"a": 0, "ä": 1, "A": 2, "[UNK]": 3}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"do_lower_case": True}, [0, 0]),
        ({"do_lower_case": True, "strip_accents": False}, [0, 1]),
        ({"do_lower_case": False}, [2, 3]),
        ({}, [2, 3]),
    ],
)
def test_the_normalizer_of_bert(tmp_path: Path, said: dict[str, Any], expected: list[int]):
    """tokenizer_config.json counts, not tokenizer.json: the ids of A and Ä."""
    bert(tmp_path, lowercase=False)
    put(tmp_path, {CONFIG: {"tokenizer_class": "BertTokenizer", **said}})
    found = read(tmp_path)
    assert [ids(found, text)[0] for text in ("A", "Ä")] == expected


@pytest.mark.parametrize("name", [CONFIG, "added_tokens.json"])
def test_tokens_that_only_a_config_has(folder: Path, name: str):
    """They get the ids that the config gives them, and are found in a text."""
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    first = 1 + max([len(raw["model"]["vocab"]) - 1, *(token["id"] for token in raw["added_tokens"])])
    said: dict[str, Any] = {
        CONFIG: {"added_tokens_decoder": {str(first + n): {"content": f"<new{n}>"} for n in (1, 0)}},
        "added_tokens.json": {f"<new{n}>": first + n for n in (0, 1)},
    }
    put(folder, {name: said[name]})
    found = read(folder)
    assert first in ids(found, "a <new0> b")
    assert first + 1 in ids(found, "a<new1>")
    assert ids(found, "quick") == ids((folder / "tokenizer.json").read_bytes(), "quick")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"added_tokens_decoder": {"9999": {"content": "<new>"}}},
            "'<new>' with id 9999; in tokenizer.json it",
        ),
        ({"added_tokens_decoder": {"7": {"content": "<s>"}}}, "tokenizer.json has it as 0"),
        ({"added_tokens_decoder": {"x": {"content": "<s>"}}}, "cannot be read"),
        ({"additional_special_tokens": ["<doc>"]}, "special token '<doc>', which tokenizer.json lacks"),
        ({"extra_special_tokens": {"doc": "<doc>"}}, "special token '<doc>'"),
        ({"truncation_side": "left"}, "truncation_side is 'left'; implemented: 'right'"),
        ({"split_special_tokens": True}, "split_special_tokens is True"),
    ],
)
def test_what_contradicts_tokenizer_json(folder: Path, config: dict[str, Any], words: str):
    """Refused, with the way out."""
    put(folder, {CONFIG: config})
    with pytest.raises(CheckpointError, match=words):
        read(folder)


def test_the_side_at_which_texts_are_cut(folder: Path):
    """transformers takes it from tokenizer.json, unless tokenizer_config.json names it. The limit
    and the padding that stand beside it there change nothing."""
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    padding = {
        "strategy": {"Fixed": 16}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1,
        "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    put(folder, {"tokenizer.json": raw | {"padding": padding, "truncation": truncation}})
    assert read(folder) == (folder / "tokenizer.json").read_bytes()
    put(folder, {"tokenizer.json": raw | {"truncation": truncation | {"direction": "Left"}}})
    with pytest.raises(
        CheckpointError, match=r"^tokenizer.json: the direction of truncation is 'Left'; impl"
    ):
        read(folder)
    put(folder, {CONFIG: {"truncation_side": "right"}})
    assert read(folder) == (folder / "tokenizer.json").read_bytes()


def test_a_contradiction_is_no_damage(folder: Path):
    """A token whose id does not fit is told as that, not as a file that cannot be read."""
    put(folder, {"added_tokens.json": {"[NEW]": 1535}})
    with pytest.raises(CheckpointError, match=r"^the files beside tokenizer.json have the token '\[NEW\]'"):
        read(folder)
