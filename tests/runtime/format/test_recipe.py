"""Recipes: what the export writes is read, and nothing that leads out of its directory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gte_runtime.errors import BundleError
from gte_runtime.format.recipe import read_recipe

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture
def text() -> str:
    return (MODELS / "gte-mini" / "recipe.toml").read_text(encoding="utf-8")


def refused(directory: Path, text: str | bytes, *words: str) -> None:
    """The message names the file and holds no path of ours."""
    (directory / "recipe.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError) as caught:
        read_recipe(directory)
    assert type(caught.value) is BundleError
    for word in ("recipe.toml", *words):
        assert word in str(caught.value)
    assert str(directory) not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["gte-mini", "gte-multilingual-base"])
def test_shipped_recipes_are_written_as_we_write_them(name: str):
    """Reading and writing a recipe gives the same bytes."""
    recipe = read_recipe(MODELS / name)
    assert recipe.name == name
    assert recipe.to_toml() == (MODELS / name / "recipe.toml").read_text(encoding="utf-8")


def test_a_graph_is_chosen_by_the_type_of_its_table():
    """A float16 table gets the graph that reads one; where there is one graph only, it serves both."""
    recipe = read_recipe(MODELS / "gte-mini")
    assert [recipe.choose("cpu-fp32", table).file for table in ("float16", "float32")] == [
        "cpu-fp32.table-fp16.onnx",
        "cpu-fp32.table-fp32.onnx",
    ]
    assert recipe.choose("portable-fp16", "float32").file == "portable-fp16.table-fp16.onnx"
    assert recipe.choose("cuda-int8", "float16") is None
    assert recipe.choose("cpu-int8", "float16") == recipe.choose("cpu-int8", "float32")
    assert recipe.variants == ("cpu-fp32", "portable-fp32", "cpu-int8", "cuda-fp16", "portable-fp16")


def test_no_recipe(tmp_path: Path):
    """A directory without recipe is named, and what writes one."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"no recipe.toml in empty; `gte-export trace"):
        read_recipe(tmp_path / "empty")


def test_a_directory_in_its_place(tmp_path: Path):
    """Python's own message would hold the whole path."""
    (tmp_path / "recipe.toml").mkdir()
    with pytest.raises(BundleError, match=r"recipe.toml cannot be read: Is a directory") as caught:
        read_recipe(tmp_path)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"format = ", b"format = 1\nformat = 1", b"x = " + b"[" * 100_000]
)
def test_text_that_is_no_recipe(tmp_path: Path, data: bytes):
    """What is not TOML says where it stops being it."""
    refused(tmp_path, data, "cannot be read")


@pytest.mark.parametrize("version", ["0", "2", '"1"'])
def test_another_format(tmp_path: Path, text: str, version: str):
    """Another format number is told as such."""
    refused(tmp_path, text.replace("format = 1", f"format = {version}"), "has format", "this version reads 1")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('name = "gte-mini"', ""),
        lambda text: text.replace("layers = 3", ""),
        lambda text: text.replace("layers = 3", "layers = 3\nmore = 3"),
        lambda text: re.sub(r"tolerance = .*", "", text),
        lambda text: text.replace("[[graph]]", "[[other]]"),
        lambda text: text.split("[[graph]]")[0] + "graph = [5]",
        lambda text: text.replace("[architecture]", "[other]"),
        lambda text: re.sub(r"weights = .*", "weights = 5", text),
    ],
    ids=[
        "no name",
        "no layers",
        "more",
        "no tolerance",
        "no graphs",
        "graphs of numbers",
        "no architecture",
        "weights a number",
    ],
)
def test_a_recipe_without_one_of_its_parts(tmp_path: Path, text: str, change: Callable[[str], str]):
    """A missing part is named."""
    refused(tmp_path, change(text), "is incomplete")


@pytest.mark.parametrize("key", ["variant", "file", "weights"])
@pytest.mark.parametrize("name", ['"../evil.bin"', '"/etc/passwd"', '""', '"a/b"', '".hidden"'])
def test_a_name_that_leads_elsewhere(tmp_path: Path, text: str, key: str, name: str):
    """B-47: a build writes files of these names, so they are plain."""
    value = f"[{name}]" if key == "weights" else name
    refused(
        tmp_path,
        re.sub(rf"^{key} = .*", f"{key} = {value}", text, count=1, flags=re.MULTILINE),
        "plain names",
    )
