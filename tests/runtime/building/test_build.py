"""A checkpoint becomes a bundle: whole or not at all, the same every time, and never without proof."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wire
from golden import Golden
from numpy.typing import NDArray
from spoil import vector_of
from tensorfile import Derive, Tensor, Tensors, read_tensors, safetensors
from tiny import Tiny

import gte_runtime.building.build
import gte_runtime.building.publish
from gte_runtime import Embedder, GteError
from gte_runtime.building.build import build
from gte_runtime.building.judge import prove as real_prove
from gte_runtime.building.transforms import TRANSFORMS
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.errors import (
    BundleCorruptError,
    BundleError,
    CheckpointError,
    ConfigError,
    OutputError,
    SelfCheckFailed,
)
from gte_runtime.format.layout import Layout
from gte_runtime.proof.oracle import forward
from gte_runtime.scoring import cut_and_normalise

PROVE = "gte_runtime.building.build.prove"

VARIANTS = ("cpu-fp32", "portable-fp32", "cpu-int8", "portable-fp16")


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_a_bundle_is_what_its_manifest_says(mini_checkpoint: Path, mini_bundle: Path):
    """Every file is listed with its size and hash, and no other file is there."""
    raw = json.loads((mini_bundle / "manifest.json").read_text(encoding="utf-8"))
    files = contents(mini_bundle)
    manifest = files.pop("manifest.json")
    assert raw["files"] == {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }
    assert set(files) == {
        "tokenizer.json", "table-fp16.bin", "table-int8.bin", "weights-fp32.bin", "weights-fp16.bin",
        "weights-int8.bin",
        *(f"{name}.onnx" for name in VARIANTS),
    }  # fmt: skip
    assert len(manifest) < 100_000
    assert files["tokenizer.json"] == (mini_checkpoint / "tokenizer.json").read_bytes()
    assert raw["source"] == hashlib.sha256((mini_checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert raw["model"] == "gte-mini"
    assert raw["made_by"].startswith("gte-runtime ")
    assert (
        raw["notice"] == json.loads((mini_checkpoint / "config.json").read_text(encoding="utf-8"))["notice"]
    )
    assert str(mini_checkpoint.parent) not in manifest.decode()


def test_weight_files_are_what_their_layouts_say(mini_checkpoint: Path, mini_bundle: Path):
    """Each tensor stands at its place, made from the checkpoint; the gaps between are zeros."""
    layout = Layout.from_json((mini_checkpoint / "weights-fp32.layout.json").read_text(encoding="utf-8"))
    data = (mini_bundle / layout.file).read_bytes()
    assert len(data) == layout.size
    with Checkpoint(mini_checkpoint) as checkpoint:
        end = 0
        for tensor in layout.tensors:
            assert not any(data[end : tensor.offset])
            end = tensor.offset + tensor.size
            if tensor.transform == "transpose":
                found = np.frombuffer(data[tensor.offset : end], np.float32).reshape(tensor.shape)
                np.testing.assert_array_equal(found, checkpoint.read(tensor.sources[0]).T)


def test_the_self_check_is_the_oracles(tiny_bundle: Path, golden: Golden):
    """The recorded ids and vectors are those that the oracle gives for the recorded texts."""
    raw = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    assert len(raw["self_checks"]) >= 4
    lengths = [len(check["ids"]) for check in raw["self_checks"]]
    flash_from = raw["variants"]["cpu-fp32"]["flash_from"]
    assert min(lengths) < flash_from <= max(lengths), "both ways through attention are checked"
    with Checkpoint(golden.checkpoint) as checkpoint:
        for check in raw["self_checks"]:
            reference = forward(checkpoint, np.array(check["ids"]))
            np.testing.assert_allclose(
                check["dense"],
                cut_and_normalise(reference.cls[None].astype(np.float32))[0],
                rtol=1e-6,
                atol=1e-8,
            )
            np.testing.assert_allclose(check["token_weights"], reference.token_weights, rtol=1e-6, atol=1e-8)


def test_everyone_may_read_a_bundle(tiny: Tiny):
    """Files are 0644 and the directory 0755, whatever the umask: a container runs as somebody else."""
    old = os.umask(0o077)
    try:
        tiny.build()
    finally:
        os.umask(old)
    assert tiny.bundle.stat().st_mode & 0o7777 == 0o755
    assert {file.name: oct(file.stat().st_mode & 0o7777) for file in tiny.bundle.iterdir()} == dict.fromkeys(
        contents(tiny.bundle), "0o644"
    )


@pytest.mark.slow
def test_building_twice_gives_the_same_bytes(mini_checkpoint: Path, mini_bundle: Path, tmp_path: Path):
    """No time, no path and no order of a dictionary gets into a bundle."""
    build(mini_checkpoint, tmp_path / "again" / "other-name", graphs=mini_checkpoint, variants=VARIANTS)
    again, first = contents(tmp_path / "again" / "other-name"), contents(mini_bundle)
    assert {name: hashlib.sha256(data).hexdigest() for name, data in again.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in first.items()
    }
    shutil.rmtree(tmp_path / "again")


@pytest.mark.slow
def test_a_variant_built_alone_is_the_same(tiny: Tiny, tiny_bundle: Path):
    """Files do not depend on what else is built."""
    tiny.build(variants=("portable-fp16",))
    alone, together = contents(tiny.bundle), contents(tiny_bundle)
    assert set(alone) == {
        "manifest.json",
        "tokenizer.json",
        "portable-fp16.onnx",
        "table-fp16.bin",
        "weights-fp16.bin",
    }
    assert all(alone[name] == together[name] for name in set(alone) - {"manifest.json"})


@pytest.mark.slow
def test_a_checkpoint_is_only_read(tiny: Tiny):
    """A build leaves its inputs as they are, makes the directories above its bundle, and builds a variant
    named twice once.
    """
    before = contents(tiny.checkpoint) | contents(tiny.graphs)
    tiny.bundle = tiny.bundle / "deep" / "er"
    assert list(tiny.build(variants=("cpu-fp32", "cpu-fp32")).variants) == ["cpu-fp32"]
    assert (tiny.bundle / "manifest.json").exists()
    assert contents(tiny.checkpoint) | contents(tiny.graphs) == before


@pytest.mark.slow
def test_graphs_are_found_by_architecture(derived: Derive, tmp_path: Path, good_vector: NDArray[np.float32]):
    """Without a directory of graphs, those that ship are found by the numbers of the config, whatever the
    checkpoint's name.
    """
    manifest = build(derived(name="somebody-elses-model"), tmp_path / "bundle")
    assert manifest.model == "somebody-elses-model"
    with Embedder.open(tmp_path / "bundle", threads=1) as gte:
        np.testing.assert_array_equal(vector_of(gte), good_vector)


@pytest.mark.slow
def test_the_shortest_trained_length(derived: Derive, mini_checkpoint: Path, tmp_path: Path):
    """A checkpoint may say to which lengths its vectors were trained to be cut."""
    manifest = build(derived(matryoshka_dimensions=[64, 32]), tmp_path / "named", graphs=mini_checkpoint)
    assert manifest.smallest_dim == 32
    width = json.loads((mini_checkpoint / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    unnamed = derived(name="none", matryoshka_dimensions=None)
    assert build(unnamed, tmp_path / "unnamed", graphs=mini_checkpoint).smallest_dim == width // 2


def in_float32(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        tensors[name] = Tensor.of(tensor.values(), "F32")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["cpu-fp32", "portable-fp32"])
def test_a_float32_checkpoint(
    derived: Derive, mini_checkpoint: Path, mini_bundle: Path, tmp_path: Path, variant: str
):
    """The same numbers in a wider type give the same vectors, from a table that loses nothing."""
    manifest = build(derived(in_float32), tmp_path / "bundle", graphs=mini_checkpoint, variants=(variant,))
    assert manifest.variants[variant].weights == ("table-fp32.bin", "weights-fp32.bin")
    with (
        Embedder.open(tmp_path / "bundle", variant=variant, threads=1) as wide,
        Embedder.open(mini_bundle, variant=variant, threads=1) as gte,
    ):
        np.testing.assert_array_equal(vector_of(wide), vector_of(gte))


@pytest.mark.slow
def test_the_manifest_is_written_last(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    """While a variant is proved, no manifest is there, so that nobody could take the directory for a bundle;
    nor is the name.
    """
    seen: list[set[str]] = []

    def prove(staged: Path, *rest: Any) -> float:
        seen.append(set(contents(staged)))
        assert not tiny.bundle.exists()
        return real_prove(staged, *rest)

    monkeypatch.setattr(PROVE, prove)
    tiny.build(variants=VARIANTS)
    assert len(seen) == len(VARIANTS)
    assert all(names == set(contents(tiny.bundle)) - {"manifest.json"} for names in seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    "failure",
    [SelfCheckFailed("other vectors"), KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")],
    ids=repr,
)
def test_a_build_without_proof_leaves_nothing(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, failure: BaseException
):
    """Whatever ends the proof: no bundle, no temporary directory."""

    def prove(*_: object) -> None:
        raise failure

    monkeypatch.setattr(PROVE, prove)
    kind = OutputError if type(failure) is OSError else type(failure)
    with pytest.raises(kind):
        tiny.build()
    assert list(tiny.bundle.parent.iterdir()) == []


def reversed_rows(transform: Callable[..., Iterator[NDArray[Any]]]) -> Callable[..., Iterator[NDArray[Any]]]:
    """The right values in the wrong order: nothing but the vectors tells."""

    def wrong(*arguments: Any) -> Iterator[NDArray[Any]]:
        for piece in transform(*arguments):
            yield piece[::-1]

    return wrong


OUTLIER_TRANSFORMS = {name for name in TRANSFORMS if name.startswith(("outlier", "quantize_inner"))}


INT8_TRANSFORMS = {
    "add",
    "add_folded",
    "divide",
    *(name for name in TRANSFORMS if name.startswith("quantize")),
} | OUTLIER_TRANSFORMS


@pytest.mark.slow
@pytest.mark.parametrize("transform", sorted(set(TRANSFORMS) - {"zeros"}))
def test_a_build_proves_itself(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, transform: str):
    """Each transform gone wrong is found by the oracle before anybody sees a bundle."""
    monkeypatch.setitem(TRANSFORMS, transform, reversed_rows(TRANSFORMS[transform]))
    if transform in OUTLIER_TRANSFORMS:
        monkeypatch.setattr(
            gte_runtime.building.build,
            "_choose",
            lambda recipe, *_: [recipe.choose("cpu-int8", "float16", outliers=True)],
        )
    variant = (
        "cpu-int8"
        if transform in INT8_TRANSFORMS
        else "cuda-fp16"
        if transform == "transpose_beside"
        else "cpu-fp32"
    )
    tiny.refused(SelfCheckFailed, variant, "differ", variants=(variant,))


@pytest.mark.parametrize(
    ("variants", "word"),
    [(("cuda-int8",), "'cuda-int8'"), (("cpu-fp32", "x" * 5000), "no graph for variant"), ((), "no variant")],
)
def test_a_variant_without_graph(tiny: Tiny, variants: tuple[str, ...], word: str):
    """Variants that cannot be built are told with those that can."""
    tiny.refused(
        ConfigError, word, "cpu-fp32, portable-fp32, cpu-int8, cuda-fp16, portable-fp16", variants=variants
    )


def test_graphs_of_another_architecture(tiny: Tiny, mini_checkpoint: Path):
    """The numbers that differ are named, both ways."""
    width = json.loads((mini_checkpoint / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    tiny.refused(
        CheckpointError,
        "gte-mini are for another architecture",
        f"hidden_size is {width}, the checkpoint has 64",
        graphs=mini_checkpoint,
    )


def test_no_graphs_for_an_architecture(tiny: Tiny):
    """Without fitting graphs: what this architecture is, which there are, and how to trace one."""
    tiny.refused(
        CheckpointError,
        "3 layers, width 64, 4 heads",
        "gte-mini, gte-multilingual-base",
        "gte-export trace",
        "--graphs",
        graphs=None,
    )


def test_a_directory_without_recipe(tiny: Tiny):
    """Graphs without recipe are none."""
    (tiny.graphs / "recipe.toml").unlink()
    tiny.refused(BundleError, "no recipe.toml in graphs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            "cpu-fp32.table-fp16.onnx",
            ("cpu-fp32.table-fp16.onnx", "a graph in graphs", "trace the architecture again"),
        ),
        (
            "weights-fp32.layout.json",
            ("weights-fp32.layout.json", "a layout in graphs", "trace the architecture again"),
        ),
    ],
)
def test_a_graph_or_layout_that_is_missing(tiny: Tiny, file: str, words: tuple[str, ...]):
    """What the recipe names and is not there is told."""
    (tiny.graphs / file).unlink()
    tiny.refused(BundleCorruptError, *words)


def test_a_graph_that_was_changed(tiny: Tiny):
    """A graph is what its recipe says, to the byte."""
    data = bytearray((tiny.graphs / "cpu-fp32.table-fp16.onnx").read_bytes())
    data[-1] ^= 1
    (tiny.graphs / "cpu-fp32.table-fp16.onnx").write_bytes(data)
    tiny.refused(
        BundleCorruptError, "cpu-fp32.table-fp16.onnx: expected sha256", "trace the architecture again"
    )


def _signed(tiny: Tiny, graph: bytes) -> None:
    """Put a graph and its hash into the recipe's directory."""
    old = (tiny.graphs / "cpu-fp32.table-fp16.onnx").read_bytes()
    (tiny.graphs / "cpu-fp32.table-fp16.onnx").write_bytes(graph)
    recipe = (tiny.graphs / "recipe.toml").read_text(encoding="utf-8")
    changed = recipe.replace(hashlib.sha256(old).hexdigest(), hashlib.sha256(graph).hexdigest())
    assert changed != recipe
    (tiny.graphs / "recipe.toml").write_text(changed, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("location", "/etc/passwd"),
        ("location", "../x"),
        ("location", "other.bin"),
        ("offset", "4096"),
        ("offset", "-4"),
        ("length", "5"),
    ],
)
def test_a_graph_that_points_elsewhere(tiny: Tiny, key: str, value: str):
    """B-47, B-48: every pointer of a graph is the place that its layouts name."""
    _signed(tiny, wire.set_pointer((tiny.graphs / "cpu-fp32.table-fp16.onnx").read_bytes(), key, value))
    tiny.refused(BundleCorruptError, "cpu-fp32.table-fp16.onnx", "another place for")


def test_a_layout_that_was_changed(tiny: Tiny):
    """A layout that moved a tensor no longer fits the graph."""
    file = tiny.graphs / "weights-fp32.layout.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    raw["tensors"][-1]["offset"] += 4096
    file.write_text(json.dumps(raw), encoding="utf-8")
    tiny.refused(
        BundleCorruptError, "cpu-fp32.table-fp16.onnx", f"another place for {raw['tensors'][-1]['name']}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format": 2}', b"\xff"])
def test_a_layout_that_is_none(tiny: Tiny, data: bytes):
    """Whatever else a layout file holds is refused."""
    (tiny.graphs / "weights-fp32.layout.json").write_bytes(data)
    tiny.refused(BundleError, "layout")


def test_no_tokenizer(tiny: Tiny):
    """Another model's tokenizer would give other vectors, so none is put in its place."""
    (tiny.checkpoint / "tokenizer.json").unlink()
    tiny.refused(CheckpointError, "no tokenizer.json in tiny", "belongs to the checkpoint")


def test_a_tokenizer_that_is_a_pointer(tiny: Tiny):
    """A clone without Git LFS has a pointer in its place."""
    (tiny.checkpoint / "tokenizer.json").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 17\n"
    )
    tiny.refused(CheckpointError, "tokenizer.json is a Git LFS pointer", "git lfs pull")


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff", b'{"version": "1.0"'])
def test_a_tokenizer_that_is_none(tiny: Tiny, data: bytes):
    """B-56: the file is named."""
    (tiny.checkpoint / "tokenizer.json").write_bytes(data)
    tiny.refused(BundleError, "tokenizer.json")


def test_a_tokenizer_with_an_id_beyond_the_table(derived: Derive, mini_checkpoint: Path, tmp_path: Path):
    """B-58: an id without a row in the embedding table is refused, and both numbers are named."""
    checkpoint = derived()
    raw = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    raw["added_tokens"].append(
        {**raw["added_tokens"][-1], "id": 2**32 - 1, "content": "<more>"}
    )  # it gets the next free id
    (checkpoint / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    rows = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    with pytest.raises(
        CheckpointError,
        match=rf"tokenizer.json has id {rows}, the embedding table has {rows} rows; they do not belong",
    ):
        build(checkpoint, tmp_path / "bundle", graphs=mini_checkpoint)
    assert not (tmp_path / "bundle").exists()


def test_weights_that_were_cut(tiny: Tiny):
    """A checkpoint that is not whole is refused before anything is written."""
    file = tiny.checkpoint / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    tiny.refused(CheckpointError, "model.safetensors", "download it again")


@pytest.mark.slow
def test_weights_that_are_not_finite(derived: Derive, mini_checkpoint: Path, tmp_path: Path):
    """A checkpoint with NaN in it builds nothing that could be served."""

    def spoil(tensors: Tensors) -> None:
        name = "new.encoder.layer.1.attn_ln.weight"
        tensors[name] = Tensor.of(np.full(tensors[name].shape, np.nan, np.float32))

    with pytest.raises(GteError):
        build(derived(spoil), tmp_path / "bundle", graphs=mini_checkpoint)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        "tiny/config.json",
        "tiny/tokenizer.json",
        "tiny/model.safetensors",
        "graphs/recipe.toml",
        "graphs/cpu-fp32.table-fp16.onnx",
        "graphs/weights-fp32.layout.json",
    ],
)
def test_a_pipe_in_the_place_of_a_file_does_not_hang(tiny: Tiny, place: str):
    """Opening a pipe that nobody writes to would wait for ever; a child is given a minute."""
    path = tiny.checkpoint.parent / place
    path.unlink()
    os.mkfifo(path)
    program = "from gte_runtime.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        program,
        "build",
        str(tiny.checkpoint),
        str(tiny.bundle),
        "--graphs",
        str(tiny.graphs),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4, done.stderr
    assert path.name in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tiny.bundle.parent.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name",
    ["new.embeddings.word_embeddings.weight", "new.encoder.layer.2.mlp.down_proj.weight", "classifier.bias"],
)
def test_nan_in_a_weight(tiny: Tiny, variant: str, value: float, name: str):
    """A build names the tensor. The table's last row is read by no text of the self-check, and int8 has no
    NaN: it would become a finite number."""
    tensors = read_tensors(tiny.checkpoint / "model.safetensors")
    values = tensors[name].values().copy()
    values.reshape(-1)[-1] = value
    tensors[name] = Tensor.of(values, tensors[name].dtype)
    (tiny.checkpoint / "model.safetensors").write_bytes(safetensors(tensors))
    tiny.refused(CheckpointError, f"tensor {name}", "NaN or infinity", variants=(variant,))


def test_a_weight_that_float16_cannot_hold(tiny: Tiny):
    """A float32 checkpoint with a value beyond 65504 is no float16 variant: it would be infinite."""
    tensors = read_tensors(tiny.checkpoint / "model.safetensors")
    name = "new.encoder.layer.2.mlp.down_proj.weight"
    values = tensors[name].values().astype(np.float32)
    values.reshape(-1)[-1] = 1e6
    tensors[name] = Tensor.of(values, "F32")
    (tiny.checkpoint / "model.safetensors").write_bytes(safetensors(tensors))
    tiny.refused(BundleError, "layers.2.down.weight", "float16 cannot hold", variants=("portable-fp16",))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "change", "word"),
    [
        ("config.json", {"notice": "n" * 1_000_001}, "at most 1000000 bytes"),
        ("config.json", {"notice": "\ud800"}, "lone surrogate"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "p" * 1_000_001}},
            "at most 1000000 bytes",
        ),
        ("config_sentence_transformers.json", {"prompts": {"\udfff": "p"}}, "lone surrogate"),
    ],
    ids=["notice", "surrogate in notice", "prompt", "surrogate in prompt"],
)
def test_a_manifest_that_nobody_could_read(tiny: Tiny, file: str, change: dict[str, Any], word: str):
    """A build never writes a manifest over the limit, or one that is no UTF-8."""
    path = tiny.checkpoint / file
    raw = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(raw | change), encoding="utf-8")
    tiny.refused(CheckpointError, word)
