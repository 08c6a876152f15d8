"""Every reader of a file: whatever the bytes are, the end is a result or a GteError, in bounded time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from damage import damage
from fuzzing import examples
from golden import Golden
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from gte_runtime.checkpoint.config import read_config
from gte_runtime.checkpoint.files import Folder
from gte_runtime.checkpoint.modules import MODULES as MODULES_FILE
from gte_runtime.checkpoint.modules import PROMPTS, read_settings
from gte_runtime.checkpoint.safetensors import FLOATS, SafetensorsFile
from gte_runtime.checkpoint.shards import INDEX, read_index
from gte_runtime.checkpoint.tokenizer import read_tokenizer
from gte_runtime.errors import GteError
from gte_runtime.format.graph import check_operators, inspect_graph
from gte_runtime.format.layout import Layout
from gte_runtime.format.manifest import CHECKSUM, parse_manifest
from gte_runtime.format.named import NamedModel, read_named
from gte_runtime.format.recipe import read_recipe
from gte_runtime.tokenization import Tokenizer
from gte_runtime.verify import read_published

MODELS = Path(__file__).parents[2] / "models"
PATIENCE = 30.0
"""Seconds: no file of these sizes takes a reader a hundredth of it."""

Read = Callable[[Path], object]


def _safetensors(path: Path) -> None:
    with SafetensorsFile(path) as file:
        for name, entry in file.items():
            if entry.dtype in FLOATS:
                file.read(name)


def _graph(path: Path) -> None:
    check_operators(inspect_graph(path.read_bytes(), path.name), path.name)


def _tokenizer(path: Path) -> None:
    for careful in (False, True):
        tokenizer = Tokenizer(path.read_bytes(), encode_special_tokens=careful)
        tokenizer.check_ids(1536)
        tokenizer.encode(["a text", "北京 " * 50], max_length=16)


def _published(path: Path) -> None:
    read_published(NamedModel("name", "owner/name", None, {}, {}, path.parent))


MODULES = b"""[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
{"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"""
POOLING = (
    b'{"word_embedding_dimension": 64, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
)
PROMPT = b'{"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}'
ENCODER = b'{"max_seq_length": 512, "do_lower_case": true}'
TOKENIZER = b"""{"model_max_length": 512, "do_lower_case": true, "tokenizer_class": "BertTokenizer",
"added_tokens_decoder": {"0": {"content": "<s>", "special": true}}}"""
DENSE = b"""{"in_features": 64, "out_features": 8, "bias": true,
"activation_function": "torch.nn.modules.activation.Tanh"}"""
SHARDS = b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}'
SETTINGS = {
    MODULES_FILE: MODULES,
    PROMPTS: PROMPT,
    "1_Pooling/config.json": POOLING,
    "2_Dense/config.json": DENSE,
    "sentence_bert_config.json": ENCODER,
    "tokenizer_config.json": TOKENIZER,
    INDEX: SHARDS,
}


def _settings(path: Path) -> object:
    root = path.parents[1] if path.parent.name[0].isdigit() else path.parent
    folder = Folder(root, root.name)
    return read_settings(folder), read_tokenizer(folder, "", lower_case=True)


READERS: dict[str, Read] = {
    "manifest.json": lambda path: parse_manifest(path.read_bytes()),
    "weights-fp32.layout.json": lambda path: Layout.from_json(path.read_bytes().decode("utf-8", "replace")),
    "recipe.toml": lambda path: read_recipe(path.parent),
    "model.toml": read_named,
    "published.json": _published,
    "config.json": read_config,
    "model.safetensors": _safetensors,
    "cpu-fp32.onnx": _graph,
    "tokenizer.json": _tokenizer,
    **dict.fromkeys(SETTINGS, _settings),
    INDEX: lambda path: read_index(path.parent),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, golden: Golden, tiny_bundle: Path) -> Path:
    """A good file of each kind, small ones."""
    target = tmp_path_factory.mktemp("readers")
    sources = (
        (tiny_bundle, "manifest.json", "cpu-fp32.onnx"),
        (golden.graphs, "weights-fp32.layout.json", "recipe.toml"),
        (golden.checkpoint, "config.json", "tokenizer.json", "model.safetensors"),
        (MODELS / "gte-multilingual-base", "model.toml", "published.json"),
    )
    for source, *names in sources:
        for name in names:
            shutil.copyfile(source / name, target / name)
    # As before manifests had checksums: behind one, no damage would come to the fields.
    manifest = json.loads((target / "manifest.json").read_text()) | {"format": 1}
    del manifest[CHECKSUM]
    (target / "manifest.json").write_text(json.dumps(manifest))
    for name, data in SETTINGS.items():
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_bytes(data)
    return target


def attempt(name: str, path: Path) -> str:
    """Read a file. Everything but a result or a GteError comes out as it is, and fails the test."""
    began = time.monotonic()
    try:
        with np.errstate(all="ignore"):
            READERS[name](path)
    except GteError as error:
        result, message = "refused", str(error)
    else:
        result, message = "read", ""
    assert len(message) < 600
    assert "\n" not in message
    assert time.monotonic() - began < PATIENCE
    return result


@contextlib.contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    good = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", READERS)
def test_the_undamaged_file_is_read(folder: Path, name: str):
    """Otherwise nothing of what follows would say anything."""
    assert attempt(name, folder / name) == "read"


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=examples(25))
@given(seed=st.integers(0, 2**32))
@example(seed=225191397)  # a key of 5000 characters, which a message repeated in full
def test_a_damaged_file(folder: Path, name: str, seed: int):
    """Flips, cuts, splices, doubled parts and odd values anywhere."""
    data = (folder / name).read_bytes()
    head = len(data) if name != "model.safetensors" else 8 + int.from_bytes(data[:8], "little")
    spoilt = damage(data[:head], seed, text=not name.endswith((".safetensors", ".onnx"))) + data[head:]
    with replaced(folder / name, spoilt):
        event(attempt(name, folder / name))


DEEP = b"[" * 900 + b"]" * 900
CORPUS: dict[str, bytes] = {
    "empty": b"",
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"format": 1}'.encode("utf-16"),
    "nested": b"[" * 200_000,
    "nested, closed": DEEP,
    "nested in a key": b'{"format": ' + DEEP + b"}",
    "nested objects": b'{"a":' * 100_000,
    "key twice": b'{"format": 1, "format": 1}',
    "a format and no more": b'{"format": 1}',
    "NaN": b'{"format": NaN}',
    "digits": b'{"format": ' + b"9" * 5000 + b"}",
    "half a character": b'{"format": "\\ud800"}',
    "NUL": b"\x00" * 1000,
    "toml, nested": b"a = " + b"[" * 20_000,
    "toml, digits": b"format = " + b"9" * 5000,
    "toml, not a number": b"format = nan",
    "varints": b"\xff" * 1000,
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 611\n",
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("what", CORPUS)
def test_files_that_readers_stumble_over(folder: Path, name: str, what: str):
    """Cases that were a fault of some reader, ours or another, tried with each of ours."""
    with replaced(folder / name, CORPUS[what]):
        found = attempt(name, folder / name)
    assert found == "refused" or name == "tokenizer_config.json"  # which may hold any other key


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_a_terabyte(folder: Path, name: str):
    """A sparse file is refused by its size, or by its first bytes, before it is read."""
    if name in ("manifest.json", "cpu-fp32.onnx", "tokenizer.json", "weights-fp32.layout.json"):
        pytest.skip("read by `bundle.directory` and `read_regular` with a limit")
    path = folder / name
    good = path.read_bytes()
    try:
        os.truncate(path, 1 << 40)
        assert attempt(name, path) == "refused"
    finally:
        path.write_bytes(good)
