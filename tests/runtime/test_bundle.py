"""A bundle on disk: what is not what the manifest promises is refused, named, and costs nothing afterwards.

Rows B-44 to B-60 of the project's table of bad inputs. `refuses` holds rule R0 for each: the exact class, the file's
name, no path of ours, nothing left behind, and the next good bundle gives its vector.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import wire
from numpy.typing import NDArray
from spoil import Refusal, change_manifest, no_hanging, replace, replace_signed, vector_of

import gte_runtime.bundle.load
from gte_runtime import Embedder
from gte_runtime.bundle.directory import Bundle
from gte_runtime.errors import (
    BundleCorruptError,
    BundleError,
    BundleVersionError,
    ConfigError,
    SelfCheckFailed,
)
from gte_runtime.machine.cache import cache_directory

GRAPH, TABLE, WEIGHTS, TOKENIZER, MANIFEST = (
    "cpu-fp32.onnx",
    "table-fp16.bin",
    "weights-fp32.bin",
    "tokenizer.json",
    "manifest.json",
)
FILES = (GRAPH, TABLE, WEIGHTS, TOKENIZER)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"<!DOCTYPE html>\n<html><title>404</title></html>\n"
LOCATIONS = (
    "/etc/passwd", "../x", "a/../../x", "..\\..\\x", "C:\\x", "C:x", "https://example.org/x", "", "a\0b", "n" * 300,
    "*/_ORT_MEM_ADDR_/*", ".", "..", ".hidden", "nested/table.bin", "table-fp16.bin\n",
)  # fmt: skip


# B-44: the directory and its manifest


@pytest.mark.parametrize("as_text", [False, True], ids=["Path", "str"])
def test_a_directory_that_is_not_there(
    refuses: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_text: bool
):
    """B-44: the missing directory is named, and how to get one."""
    monkeypatch.chdir(tmp_path)
    if as_text:
        refuses(
            "nowhere",
            BundleError,
            "'nowhere' is neither a bundle directory nor a model that is here",
            "gte build",
            "gte pull",
        )
    else:
        refuses(tmp_path / "nowhere", BundleError, "nowhere: expected a bundle directory, found nothing")


def test_a_name_too_long_for_any_file(tmp_path: Path):
    """B-44: a name that the file system refuses is a missing bundle, too, and is not repeated in full."""
    with pytest.raises(
        BundleError, match=r"x: expected a bundle directory, found an error .File name too long"
    ) as caught:
        Bundle.open(tmp_path / ("x" * 300))
    assert "x" * 81 not in str(caught.value)


def test_a_name_too_long_for_an_engine(refuses: Refusal):
    """B-44: the same through the engine."""
    refuses("x" * 300, BundleError)


def test_an_empty_directory(refuses: Refusal, tmp_path: Path):
    """B-44: a directory without manifest is named with what it lacks."""
    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", BundleError, "empty has no manifest.json", "gte build")


def test_the_current_directory_has_a_name_in_messages(
    refuses: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """B-44: "." is named as the directory it is."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refuses(Path(), BundleError, "here has no manifest.json")


@pytest.mark.parametrize("as_text", [False, True], ids=["Path", "str"])
def test_a_file_in_place_of_a_directory(refuses: Refusal, tmp_path: Path, as_text: bool):
    """B-44: a file, such as a downloaded archive, is no bundle."""
    file = tmp_path / "bundle.zip"
    file.write_bytes(b"PK\3\4")
    refuses(
        str(file) if as_text else file, BundleError, "bundle.zip", "a file", "expected a bundle directory"
    )


def test_a_checkpoint_in_place_of_a_bundle(refuses: Refusal, mini_checkpoint: Path):
    """B-44: whoever opens the downloaded checkpoint itself is told the command that makes a bundle of it."""
    refuses(
        mini_checkpoint,
        BundleError,
        "gte-mini has no manifest.json",
        "this is a checkpoint",
        "gte build CHECKPOINT BUNDLE",
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ("JSON",)),
        (b"not json", ("JSON",)),
        (b"\xef\xbb\xbf{}", ("byte order mark",)),
        (b'{"format": 1', ("JSON",)),
        (b"\xff\xfe{\0}\0", ("UTF-8",)),
        (b'{"format": 1, "format": 1}', ("a key stands twice",)),
        (b"[" * 200_000, ("JSON",)),
        (b"[]", ("an object", "list")),
        (b"null", ("an object", "NoneType")),
        (LFS, ("Git LFS pointer",)),
        (PAGE, ("HTML page",)),
    ],
    ids=["empty", "words", "bom", "half", "utf16", "twice", "nested", "list", "null", "lfs", "html"],
)
def test_a_manifest_that_is_none(refuses: Refusal, bundle_copy: Path, data: bytes, words: tuple[str, ...]):
    """B-44: whatever else manifest.json holds, the error names the file and what is wrong with it."""
    replace(bundle_copy, MANIFEST, data)
    refuses(bundle_copy, BundleCorruptError, MANIFEST, *words)


def test_a_manifest_of_a_gigabyte_is_not_read(refuses: Refusal, bundle_copy: Path):
    """B-44: a manifest of 1 GB is refused by its size, not by reading it."""
    os.truncate(bundle_copy / MANIFEST, 1 << 30)
    tracemalloc.start()
    try:
        refuses(bundle_copy, BundleCorruptError, MANIFEST, "at most 1000000 bytes", "1073741824")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000_000


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_a_manifest_of_another_format(refuses: Refusal, bundle_copy: Path, version: object):
    """B-44: another format is a matter of versions, not of damage."""
    change_manifest(bundle_copy, lambda raw: raw.update(format=version))
    refuses(bundle_copy, BundleVersionError, MANIFEST, f"format {version!r}", "upgrade")


def test_a_variant_that_the_bundle_lacks(refuses: Refusal, mini_bundle: Path):
    """B-44: asking for a variant that is not there lists those that are."""
    refuses(
        mini_bundle,
        BundleError,
        "'cuda-int8'",
        "cpu-fp32, portable-fp32, cpu-int8, portable-fp16",
        variant="cuda-int8",
    )


# B-45, B-46: files of another size or content


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing(refuses: Refusal, bundle_copy: Path, name: str):
    """B-45, B-46: a missing file is named."""
    (bundle_copy / name).unlink()
    refuses(bundle_copy, BundleCorruptError, f"{name}: expected a file, found nothing")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "size",
    [0, 7, "half", -1, +1, +100],
    ids=["empty", "garbage", "half", "one short", "one long", "100 long"],
)
def test_a_file_of_another_size(refuses: Refusal, bundle_copy: Path, name: str, size: int | str):
    """B-45, B-46: empty, cut or prolonged: both sizes are named, before anything is hashed or loaded."""
    whole = (bundle_copy / name).stat().st_size
    new = {0: 0, 7: 7, "half": whole // 2}.get(size, whole + size if isinstance(size, int) else 0)
    os.truncate(bundle_copy / name, new)
    refuses(bundle_copy, BundleCorruptError, f"{name}: expected {whole} bytes, found {new} bytes", "again")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (LFS, ("a Git LFS pointer", "run git lfs pull")),
        (PAGE, ("an HTML page", "download the bundle again")),
        (b"\n  <HTML><body>Not found</body></HTML>", ("an HTML page",)),
        (b"PK\3\4" + bytes(50), ("54 bytes",)),
    ],
    ids=["lfs", "html", "html in capitals", "zip"],
)
def test_a_download_that_went_elsewhere(
    refuses: Refusal, bundle_copy: Path, name: str, data: bytes, words: tuple[str, ...]
):
    """B-45, B-46: pointers and error pages are told by name, with the way out."""
    replace(bundle_copy, name, data)
    refuses(bundle_copy, BundleCorruptError, name, *words)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["first", "last", "0xFF", "lfs"])
def test_a_file_of_the_right_size(refuses: Refusal, bundle_copy: Path, name: str, how: str):
    """B-45, B-46: one byte of another value is found by the hash, even where ONNX Runtime would load it."""
    data = bytearray((bundle_copy / name).read_bytes())
    if how == "0xFF":
        data = bytearray(b"\xff" * len(data))
    elif how == "lfs":
        data[: len(LFS)] = LFS
    else:
        data[0 if how == "first" else -1] ^= 1
    replace(bundle_copy, name, bytes(data))
    refuses(
        bundle_copy,
        BundleCorruptError,
        f"{name}: expected sha256",
        *(["run git lfs pull"] if how == "lfs" else []),
    )


def test_weights_of_another_model(refuses: Refusal, bundle_copy: Path, tiny_bundle: Path):
    """B-46: a weight file of another model is refused, though it bears the right name."""
    replace(bundle_copy, WEIGHTS, (tiny_bundle / WEIGHTS).read_bytes())
    refuses(bundle_copy, BundleCorruptError, WEIGHTS)


def test_weights_of_another_model_that_are_vouched_for(refuses: Refusal, bundle_copy: Path):
    """B-46: with a manifest that fits, the self-check still finds that the vectors are not those of the build."""
    data = bytearray((bundle_copy / WEIGHTS).read_bytes())
    data[-400:] = bytes(400)
    replace_signed(bundle_copy, WEIGHTS, bytes(data))
    refuses(bundle_copy, SelfCheckFailed, "cpu-fp32", "differ")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_directory_in_place_of_a_file(refuses: Refusal, bundle_copy: Path, name: str):
    """B-45, B-51: a directory of that name is told apart."""
    (bundle_copy / name).unlink()
    (bundle_copy / name).mkdir()
    refuses(bundle_copy, BundleCorruptError, f"{name}: expected a regular file, found a directory")


# B-47, B-48: where a graph may point


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("place", ["files", "graph", "weights"])
def test_a_manifest_names_files_of_its_directory_only(
    refuses: Refusal, bundle_copy: Path, location: str, place: str
):
    """B-47: wherever a manifest names a file, a name that could lead elsewhere is refused."""

    def change(raw: dict[str, Any]) -> None:
        if place == "files":
            raw["files"][location] = raw["files"][TABLE]
        elif place == "graph":
            raw["variants"]["portable-fp16"]["graph"] = (
                location  # of another variant than the one that is opened
            )
        else:
            raw["variants"]["portable-fp16"]["weights"].append(location)

    change_manifest(bundle_copy, change)
    error = refuses(bundle_copy, BundleCorruptError, MANIFEST, "plain file names")
    assert "n" * 81 not in str(error)


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_graph_points_to_files_of_its_directory_only(refuses: Refusal, bundle_copy: Path, location: str):
    """B-47: a graph that was changed to point elsewhere fails by its hash; with a manifest to match, it does not load."""
    graph = wire.set_pointer((bundle_copy / GRAPH).read_bytes(), "location", location)
    replace(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleCorruptError, GRAPH)
    replace_signed(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleError, GRAPH)


def test_a_graph_points_to_listed_files_only(refuses: Refusal, bundle_copy: Path):
    """B-47: a file that no manifest lists was never hashed, so no graph may read it, though it lies beside the others."""
    shutil.copyfile(bundle_copy / WEIGHTS, bundle_copy / "unlisted.bin")

    def change(pair: wire.Value) -> wire.Value:
        found = wire.bytes_of(pair)
        return (
            wire.put(found, wire.PAIR_VALUE, b"unlisted.bin")
            if wire.get(found, wire.PAIR_VALUE) == WEIGHTS.encode()
            else found
        )

    path = (wire.MODEL_GRAPH, wire.GRAPH_INITIALIZER, wire.TENSOR_EXTERNAL)
    replace_signed(bundle_copy, GRAPH, wire.edit((bundle_copy / GRAPH).read_bytes(), path, change))
    refuses(bundle_copy, BundleError, GRAPH, "unlisted.bin")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("offset", value) for value in ("-4", str(2**62), str(2**64), "abc", "", "5")),
        *(("length", value) for value in ("-4", str(2**62), "abc", "", "5")),
    ],
)
def test_a_graph_points_into_its_files(refuses: Refusal, bundle_copy: Path, key: str, value: str):
    """B-48: offsets and lengths that lead out of a file, or are no numbers, fail by the hash and without it."""
    graph = wire.set_pointer((bundle_copy / GRAPH).read_bytes(), key, value)
    replace(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleCorruptError, GRAPH)
    replace_signed(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleError, GRAPH)


# B-49 to B-52: what a name stands for


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("where", ["outside", "inside", "nowhere"])
def test_a_link_in_place_of_a_file(
    refuses: Refusal, bundle_copy: Path, tmp_path: Path, name: str, where: str
):
    """B-49: links are not followed, wherever they lead and however right the content is."""
    target = (bundle_copy if where == "inside" else tmp_path) / "the-real-one"
    (bundle_copy / name).rename(target)
    (bundle_copy / name).symlink_to(target)
    if where == "nowhere":
        target.unlink()
    if name == MANIFEST and where == "nowhere":
        refuses(bundle_copy, BundleError, "copy has no manifest.json")
    else:
        refuses(
            bundle_copy,
            BundleCorruptError,
            f"{name}: expected a regular file of the bundle, found a symbolic link",
        )


def test_a_bundle_behind_a_linked_directory(
    refuses: Refusal, good_vector: NDArray[np.float32], bundle_copy: Path, tmp_path: Path
):
    """B-49: the user may reach a bundle through a link; the files in it are still its own."""
    link = tmp_path / "link"
    link.symlink_to(bundle_copy)
    with Embedder.open(link, threads=1) as gte:
        np.testing.assert_array_equal(vector_of(gte), good_vector)
    replace(bundle_copy, WEIGHTS, b"")
    refuses(link, BundleCorruptError, WEIGHTS)


@pytest.mark.parametrize("name", FILES)
def test_a_second_name_of_a_secret_file(refuses: Refusal, bundle_copy: Path, tmp_path: Path, name: str):
    """B-50: a hard link is a regular file, and its content gives it away."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * (bundle_copy / name).stat().st_size)
    (bundle_copy / name).unlink()
    os.link(secret, bundle_copy / name)
    error = refuses(bundle_copy, BundleCorruptError, f"{name}: expected sha256")
    assert "ssss" not in str(error)


def test_hard_links_of_the_right_content_open(
    good_vector: NDArray[np.float32], bundle_copy: Path, tmp_path: Path
):
    """B-50: two bundles may share their files, as copies made with `cp -l` do."""
    twin = tmp_path / "twin"
    shutil.copytree(bundle_copy, twin, copy_function=os.link)
    with Embedder.open(twin, threads=1) as gte:
        np.testing.assert_array_equal(vector_of(gte), good_vector)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_pipe_in_place_of_a_file(refuses: Refusal, bundle_copy: Path, name: str):
    """B-51: nobody waits for a pipe's other end."""
    (bundle_copy / name).unlink()
    os.mkfifo(bundle_copy / name)
    with no_hanging(bundle_copy / name):
        refuses(bundle_copy, BundleCorruptError, f"{name}: expected a regular file, found a named pipe")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_socket_in_place_of_a_file(
    refuses: Refusal, bundle_copy: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    """B-51: a socket is told by name."""
    (bundle_copy / name).unlink()
    monkeypatch.chdir(bundle_copy)  # a socket's address is short, a path need not be
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        refuses(bundle_copy, BundleCorruptError, name, "a regular file", "found a socket")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_device_in_place_of_a_file(refuses: Refusal, bundle_copy: Path, name: str):
    """B-51: a device, such as the endless zeros of /dev/zero, is told by name."""
    (bundle_copy / name).unlink()
    try:
        os.mknod(bundle_copy / name, 0o20644, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    refuses(bundle_copy, BundleCorruptError, name, "a regular file", "found a device")


@pytest.mark.parametrize("name", [TABLE, WEIGHTS, TOKENIZER])
@pytest.mark.parametrize("same_content", [False, True], ids=["other content", "same content"])
def test_a_file_replaced_while_loading(
    refuses: Refusal, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, same_content: bool
):
    """B-52: ONNX Runtime opens weights by name after they were hashed, so a file replaced in between is noticed."""
    real = gte_runtime.bundle.load.CpuSession
    good = (bundle_copy / name).read_bytes()

    def session(graph: bytes, folder: Path, *rest: Any, **options: Any) -> Any:
        if folder == bundle_copy:
            other = good if same_content else bytes([good[0] ^ 1]) + good[1:]
            (folder / "new").write_bytes(other)
            os.replace(folder / "new", folder / name)
        return real(graph, folder, *rest, **options)

    monkeypatch.setattr(gte_runtime.bundle.load, "CpuSession", session)
    if name == TOKENIZER and not same_content:
        # It is read while the session is made: before the file was replaced or after, when its hash tells.
        refuses(bundle_copy, BundleCorruptError, f"{name}: expected")
    else:
        refuses(bundle_copy, BundleCorruptError, name, "replaced while loading", "open the bundle again")


def test_a_weight_file_written_to_while_loading(
    refuses: Refusal, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
):
    """B-52: writing into the file that was hashed is noticed like a replacement."""
    real = gte_runtime.bundle.load.CpuSession

    def session(graph: bytes, folder: Path, *rest: Any, **options: Any) -> Any:
        made = real(graph, folder, *rest, **options)
        if folder == bundle_copy:
            with (folder / WEIGHTS).open("r+b") as file:
                file.write(b"\xff")
            _later(folder / WEIGHTS)
        return made

    monkeypatch.setattr(gte_runtime.bundle.load, "CpuSession", session)
    refuses(bundle_copy, BundleCorruptError, WEIGHTS, "replaced while loading")


def test_a_graph_replaced_between_hash_and_load(
    refuses: Refusal, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
):
    """B-52: a graph is hashed as it is read, so what ONNX Runtime gets is what was hashed."""
    real = Bundle.check

    def check(self: Bundle, *rest: Any) -> Any:
        checked = real(self, *rest)
        if self.directory == bundle_copy:
            replace(bundle_copy, GRAPH, bytes((bundle_copy / GRAPH).stat().st_size))
        return checked

    monkeypatch.setattr(Bundle, "check", check)
    refuses(bundle_copy, BundleCorruptError, f"{GRAPH}: expected sha256")


# B-53 to B-55: graphs that this ONNX Runtime, or this program, does not run


def _operator(node: wire.Value, **fields: bytes) -> wire.Value:
    """Give the Relu of the sparse head another name or domain."""
    message = wire.bytes_of(node)
    if wire.get(message, wire.NODE_OP) != b"Relu":
        return message
    for name, value in fields.items():
        message = wire.put(message, getattr(wire, name), value)
    return message


NODES = (wire.MODEL_GRAPH, wire.GRAPH_NODE)
TOO_NEW: dict[str, Callable[[bytes], bytes]] = {
    "opset 99": lambda graph: wire.edit(graph, (wire.MODEL_OPSET, wire.OPSET_VERSION), lambda _: 99),
    "IR 99": lambda graph: wire.edit(graph, (wire.MODEL_IR,), lambda _: 99),
    "operator": lambda graph: wire.edit(graph, NODES, lambda node: _operator(node, NODE_OP=b"Frobnicate")),
    "domain": lambda graph: wire.edit(
        graph, NODES, lambda node: _operator(node, NODE_OP=b"Frobnicate", NODE_DOMAIN=b"org.example")
    ),
}


@pytest.mark.parametrize("what", TOO_NEW)
def test_a_graph_for_a_newer_onnx_runtime(refuses: Refusal, bundle_copy: Path, what: str):
    """B-53: an opset, format or operator that ONNX Runtime does not know is a matter of its version, and both are named."""
    import onnxruntime

    replace_signed(bundle_copy, GRAPH, TOO_NEW[what]((bundle_copy / GRAPH).read_bytes()))
    refuses(bundle_copy, BundleVersionError, GRAPH, "ORT >= 1.24", onnxruntime.__version__)


def test_a_manifest_that_asks_for_a_newer_onnx_runtime(refuses: Refusal, bundle_copy: Path):
    """B-53: a bundle says which ONNX Runtime it needs, and is not tried on an older one."""
    change_manifest(bundle_copy, lambda raw: raw["variants"]["cpu-fp32"].update(min_onnxruntime="99.0"))
    refuses(bundle_copy, BundleVersionError, GRAPH, "99.0", "upgrade onnxruntime")


def _value_info(name: str, kind: int) -> bytes:
    return wire.message(
        (wire.INFO_NAME, name.encode()),
        (wire.INFO_TYPE, wire.message((wire.TYPE_TENSOR, wire.message((wire.TENSOR_ELEMENT, kind))))),
    )


def _info(graph: bytes, which: int, name: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Change the declaration of one input or output."""

    def one(info: wire.Value) -> wire.Value:
        message = wire.bytes_of(info)
        return change(message) if wire.get(message, wire.INFO_NAME) == name else message

    return wire.edit(graph, (wire.MODEL_GRAPH, which), one)


def _renamed(graph: bytes) -> bytes:
    """Call the output `token_weights` something else, where it is made and where it is declared."""

    def node(value: wire.Value) -> wire.Value:
        return wire.edit(
            wire.bytes_of(value), (2,), lambda name: b"weights" if name == b"token_weights" else name
        )

    return _info(
        wire.edit(graph, NODES, node),
        wire.GRAPH_OUTPUT,
        b"token_weights",
        lambda info: wire.put(info, wire.INFO_NAME, b"weights"),
    )


def _first_dim(value: int) -> Callable[[bytes], bytes]:
    """Fix the first dimension of an input."""

    def dims(shape: wire.Value) -> wire.Value:
        first, *rest = [wire.bytes_of(dim) for _, _, dim in wire.fields(wire.bytes_of(shape))]
        assert first
        fixed = wire.message((wire.DIM_VALUE, value))
        return wire.message(*((wire.SHAPE_DIM, dim) for dim in (fixed, *rest)))

    return lambda info: wire.edit(info, (wire.INFO_TYPE, wire.TYPE_TENSOR, wire.TENSOR_SHAPE), dims)


def _declared(graph: bytes, which: int, name: str) -> bytes:
    """Declare one more input or output, int64."""
    return wire.edit(
        graph, (wire.MODEL_GRAPH,), lambda g: wire.bytes_of(g) + wire.message((which, _value_info(name, 7)))
    )


def test_a_bundle_from_before_graphs_gave_states(bundle_copy: Path):
    """It opens and embeds; only states of tokens are refused, with what to do."""

    def without(info: wire.Value) -> wire.Value | None:
        return None if wire.get(wire.bytes_of(info), wire.INFO_NAME) == b"token_states" else info

    with Embedder.open(bundle_copy) as engine:
        expected = engine.encode("a").dense
    old = wire.edit((bundle_copy / GRAPH).read_bytes(), (wire.MODEL_GRAPH, wire.GRAPH_OUTPUT), without)
    replace_signed(bundle_copy, GRAPH, old)
    change_manifest(
        bundle_copy, lambda raw: raw["variants"]["cpu-fp32"].update(outputs=["cls", "token_weights"])
    )
    with Embedder.open(bundle_copy) as engine:
        assert np.array_equal(engine.encode("a").dense, expected)
        with pytest.raises(ConfigError, match="build the bundle again"):
            engine.token_vectors("a")


OTHER_SIGNATURES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "extra input": (lambda graph: _declared(graph, wire.GRAPH_INPUT, "more"), "more"),
    "extra output": (
        lambda graph: _declared(graph, wire.GRAPH_OUTPUT, "flat_index"),
        "token_states, flat_index",
    ),
    "renamed output": (_renamed, "cls, weights, token_states"),
}


@pytest.mark.parametrize("what", OTHER_SIGNATURES)
def test_a_graph_with_other_inputs_or_outputs(refuses: Refusal, bundle_copy: Path, what: str):
    """B-54: names are compared with the manifest before the first run, and both lists are shown."""
    change, word = OTHER_SIGNATURES[what]
    replace_signed(bundle_copy, GRAPH, change((bundle_copy / GRAPH).read_bytes()))
    refuses(bundle_copy, BundleError, GRAPH, "expected inputs input_ids", "found", word)


def test_a_manifest_with_other_inputs(refuses: Refusal, bundle_copy: Path):
    """B-54: the same the other way round."""
    change_manifest(
        bundle_copy, lambda raw: raw["variants"]["cpu-fp32"].update(inputs=["input_ids", "attention_mask"])
    )
    refuses(
        bundle_copy,
        BundleError,
        GRAPH,
        "expected inputs input_ids, attention_mask",
        "found input_ids, position_ids",
    )


@pytest.mark.parametrize(
    ("variant", "name", "change"),
    [
        ("cpu-fp32", b"input_ids", lambda info: wire.edit(info, (2, 1, 1), lambda _: 6)),
        ("cpu-fp32", b"input_ids", _first_dim(7)),
        ("portable-fp32", b"input_ids", _first_dim(1)),
        ("portable-fp32", b"input_ids", lambda info: wire.edit(info, (2, 1, 1), lambda _: 6)),
    ],
    ids=["int32 ids", "static tokens", "static batch", "int32 ids, padded"],
)
def test_a_graph_with_inputs_of_another_kind(
    refuses: Refusal, bundle_copy: Path, variant: str, name: bytes, change: Callable[[bytes], bytes]
):
    """B-54: an input of another type or of a fixed size is refused before the first run."""
    file = f"{variant}.onnx"
    replace_signed(
        bundle_copy, file, _info((bundle_copy / file).read_bytes(), wire.GRAPH_INPUT, name, change)
    )
    refuses(bundle_copy, BundleError, file, variant=variant)


def test_a_graph_of_another_width(refuses: Refusal, bundle_copy: Path, tiny_bundle: Path):
    """B-54: graph and weights of a model of another width, vouched for, do not pass for this one."""
    for name in (GRAPH, TABLE, WEIGHTS):
        replace_signed(bundle_copy, name, (tiny_bundle / name).read_bytes())
    refuses(bundle_copy, BundleError, GRAPH)


def test_a_graph_for_one_compiled_device(refuses: Refusal, bundle_copy: Path):
    """B-55: EPContext, which names a file to load into a device, does not load."""
    graph = wire.edit(
        (bundle_copy / GRAPH).read_bytes(),
        NODES,
        lambda node: _operator(node, NODE_OP=b"EPContext", NODE_DOMAIN=b"com.microsoft"),
    )
    replace_signed(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleError, GRAPH)


@pytest.mark.parametrize("operator", ["Sin", "Softplus"])
def test_a_graph_with_an_operator_that_we_never_use(refuses: Refusal, bundle_copy: Path, operator: str):
    """B-55: an operator that ONNX Runtime knows and no graph of ours holds is refused by name."""
    graph = wire.edit(
        (bundle_copy / GRAPH).read_bytes(), NODES, lambda node: _operator(node, NODE_OP=operator.encode())
    )
    replace_signed(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleError, GRAPH, f"the operator {operator}")


def test_a_bundle_refused_by_its_self_check_is_refused_again(refuses: Refusal, bundle_copy: Path):
    """The long text of the self-check is run when files are new; a bundle that fails by it alone stays refused."""

    def change(raw: dict[str, Any]) -> None:
        longest = max(raw["self_checks"], key=lambda check: len(check["ids"]))
        longest["dense"] = raw["self_checks"][0]["dense"]

    change_manifest(bundle_copy, change)
    refuses(bundle_copy, SelfCheckFailed, "cpu-fp32")


def test_a_model_brings_no_session_options(mini_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    """B-55: the variable that lets a model set its own session options is taken out of the environment."""
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    with Embedder.open(mini_bundle, threads=1):
        assert "ORT_LOAD_CONFIG_FROM_MODEL" not in os.environ


# B-56 to B-60: the tokenizer


def _spoil_tokenizer(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((bundle / TOKENIZER).read_text(encoding="utf-8"))
    change(raw)
    replace_signed(bundle, TOKENIZER, json.dumps(raw).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"null", b'{"version": "1.0"', b"\xff\xfe", b'{"version": "2.0"}', b"[" * 100_000],
    ids=["empty", "{}", "null", "truncated", "utf16", "version", "nested"],
)
def test_a_tokenizer_that_is_none(refuses: Refusal, bundle_copy: Path, data: bytes):
    """B-56: what the tokenizers library says is told under the file's name."""
    replace_signed(bundle_copy, TOKENIZER, data)
    refuses(bundle_copy, BundleError, TOKENIZER)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(version="2.0"),
        lambda raw: raw.update(pre_tokenizer={"type": "Frobnicate"}),
        lambda raw: raw["model"].update(vocab=[]),
        lambda raw: raw["model"].update(unk_id=10**6),
        lambda raw: raw["model"].update(unk_id=None),
        lambda raw: raw["normalizer"].update(precompiled_charsmap="AAAA"),
    ],
    ids=["version", "unknown component", "no vocabulary", "unk out of range", "no unk", "charsmap"],
)
def test_a_tokenizer_that_the_library_refuses(
    refuses: Refusal, bundle_copy: Path, change: Callable[[dict[str, Any]], object]
):
    """B-56, B-57, B-58: whatever the library raises or panics about, loading or encoding, is a BundleError."""
    _spoil_tokenizer(bundle_copy, change)
    refuses(bundle_copy, BundleError, TOKENIZER)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["normalizer"].update(precompiled_charsmap="BAAAAP////8="),
        lambda raw: raw["post_processor"]["special_tokens"].pop("</s>"),
    ],
    ids=["charsmap", "unknown special token"],
)
def test_a_tokenizer_that_panics_at_its_first_text(
    refuses: Refusal, bundle_copy: Path, change: Callable[[dict[str, Any]], object]
):
    """B-57: a panic at the first text, which is no Exception in Python, is a BundleError."""
    _spoil_tokenizer(bundle_copy, change)
    refuses(bundle_copy, BundleError, TOKENIZER)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["model"]["vocab"].__setitem__(
            slice(100, 8000), raw["model"]["vocab"][100:8000][::-1]
        ),
        lambda raw: raw.update(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": "(a+)+$"},
                "behavior": "Isolated",
                "invert": False,
            }
        ),
        lambda raw: raw["post_processor"]["special_tokens"]["</s>"].update(ids=[2**32 - 1]),
    ],
    ids=["other order", "other words", "other special token"],
)
def test_another_tokenizer(refuses: Refusal, bundle_copy: Path, change: Callable[[dict[str, Any]], object]):
    """B-58, B-60: a tokenizer of the same size but other ids is found by its hash, and without it by the recorded ids."""
    good = (bundle_copy / TOKENIZER).read_bytes()
    replace(bundle_copy, TOKENIZER, good.replace(b"\xe2\x96\x81the", b"\xe2\x96\x81eth"))
    refuses(bundle_copy, BundleCorruptError, TOKENIZER)
    replace(bundle_copy, TOKENIZER, good)
    _spoil_tokenizer(bundle_copy, change)
    refuses(bundle_copy, BundleError, TOKENIZER, "other ids", "do not belong together")


def test_a_tokenizer_with_an_id_beyond_the_table(refuses: Refusal, bundle_copy: Path):
    """B-58: an added token whose id has no row is refused at load, not at the first text that holds it."""
    _spoil_tokenizer(
        bundle_copy,
        lambda raw: raw["added_tokens"].append(
            {**raw["added_tokens"][-1], "id": 2**32 - 1, "content": "<huge>"}
        ),
    )
    refuses(bundle_copy, BundleError, TOKENIZER)


@pytest.mark.parametrize(
    "block",
    [
        {"truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}},
        {"padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>"}},
    ],
    ids=["truncation", "padding"],
)  # fmt: skip
def test_a_tokenizer_with_limits_of_its_own(
    good_vector: NDArray[np.float32], bundle_copy: Path, block: dict[str, Any]
):
    """B-59: truncation and padding in the file apply to nobody's text."""
    _spoil_tokenizer(bundle_copy, lambda raw: raw.update(block))
    with Embedder.open(bundle_copy, threads=1) as gte:
        np.testing.assert_array_equal(vector_of(gte), good_vector)


# What a machine remembers


class Hashed:
    """Checks bundles, and tells which files were hashed for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: set[str] = set()
        real = Bundle._hash

        def hash_file(bundle: Bundle, name: str) -> None:
            self.names.add(name)
            real(bundle, name)

        monkeypatch.setattr(Bundle, "_hash", hash_file)

    def __call__(
        self, directory: Path, variant: str = "cpu-fp32", verify: Literal["auto", "always"] = "auto"
    ) -> set[str]:
        self.names.clear()
        bundle = Bundle.open(directory)
        checked = bundle.check(bundle.manifest.files_of(variant), verify)
        bundle.remember(checked)
        assert checked.fresh == bool(self.names)
        return set(self.names)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, new_cache: Path) -> Hashed:
    return Hashed(monkeypatch)


def test_a_second_opening_hashes_nothing(hashed: Hashed, mini_bundle: Path):
    """Files are hashed when a machine first sees them; afterwards a few calls to stat are enough."""
    Embedder.open(mini_bundle, threads=1).close()
    assert hashed.names == set(FILES)
    hashed.names.clear()
    Embedder.open(mini_bundle, threads=1).close()
    assert hashed.names == set()
    Embedder.open(mini_bundle, threads=1, verify="always").close()
    assert hashed.names == set(FILES)


def test_a_variant_hashes_the_files_it_needs(hashed: Hashed, mini_bundle: Path):
    """A second variant of a bundle that is known hashes only what the first did not need."""
    assert hashed(mini_bundle) == set(FILES)
    assert hashed(mini_bundle, "portable-fp32") == {"portable-fp32.onnx"}
    assert hashed(mini_bundle, "portable-fp16") == {"portable-fp16.onnx", "weights-fp16.bin"}
    assert hashed(mini_bundle) == set()


def test_a_touched_file_is_hashed_again(hashed: Hashed, bundle_copy: Path):
    """A file whose time changed may have another content, so it is hashed again, and only that one."""
    hashed(bundle_copy)
    _later(bundle_copy / WEIGHTS)
    assert hashed(bundle_copy) == {WEIGHTS}
    assert hashed(bundle_copy) == set()


def test_a_moved_bundle_is_hashed_again(hashed: Hashed, bundle_copy: Path, tmp_path: Path):
    """What is known of a bundle says nothing of one in another place."""
    hashed(bundle_copy)
    bundle_copy.rename(tmp_path / "moved")
    assert hashed(tmp_path / "moved") == set(FILES)
    (tmp_path / "moved").rename(bundle_copy)


def test_a_replaced_file_of_a_known_bundle_is_found(hashed: Hashed, refuses: Refusal, bundle_copy: Path):
    """B-46, B-52: a weight file of the same size and time, put in place of one that was hashed, is hashed and refused."""
    hashed(bundle_copy)
    good = bundle_copy / WEIGHTS
    status, data = good.stat(), bytearray(good.read_bytes())
    data[-1] ^= 0x40
    (bundle_copy / "new").write_bytes(data)
    os.utime(bundle_copy / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(bundle_copy / "new", good)
    refuses(bundle_copy, BundleCorruptError, f"{WEIGHTS}: expected sha256")


def test_always_hashes_what_is_known(hashed: Hashed, refuses: Refusal, bundle_copy: Path):
    """verify="always" hashes every file, and so finds a byte that was changed behind the file's time."""
    hashed(bundle_copy)
    assert hashed(bundle_copy, verify="always") == set(FILES)
    good = bundle_copy / WEIGHTS
    status, last = good.stat(), good.read_bytes()[-1]
    with good.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(good, ns=(status.st_atime_ns, status.st_mtime_ns))
    refuses(bundle_copy, BundleCorruptError, f"{WEIGHTS}: expected sha256", verify="always")


def test_another_manifest_is_another_bundle(hashed: Hashed, bundle_copy: Path):
    """What was found under one manifest is not held against another."""
    hashed(bundle_copy)
    change_manifest(bundle_copy, lambda raw: raw.update(notice="changed"))
    assert hashed(bundle_copy) == set(FILES)


def test_a_cache_that_cannot_be_written_is_no_error(hashed: Hashed, mini_bundle: Path, new_cache: Path):
    """Without a place to remember, every opening hashes."""
    new_cache.write_bytes(b"a file where the directory would be")
    for _ in range(2):
        hashed.names.clear()
        Embedder.open(mini_bundle, threads=1).close()
        assert hashed.names == set(FILES)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"null", b'{"a": 1}', b'{"a": [1]}', b'{"a": [1, 2, 3, 4, 5]}', b"[" * 200_000],
    ids=lambda d: repr(d[:9]),
)
def test_a_memory_that_is_damaged_is_no_error(
    hashed: Hashed, mini_bundle: Path, new_cache: Path, data: bytes
):
    """A note that cannot be read is as good as none."""
    hashed(mini_bundle)
    (note,) = (new_cache / "verified").iterdir()
    note.write_bytes(data)
    assert hashed(mini_bundle) == set(FILES)
    assert hashed(mini_bundle) == set()


def test_a_failed_check_is_not_remembered(refuses: Refusal, bundle_copy: Path):
    """A file that was refused is refused again."""
    replace(bundle_copy, WEIGHTS, bytes((bundle_copy / WEIGHTS).stat().st_size))
    refuses(bundle_copy, BundleCorruptError, WEIGHTS)
    refuses(bundle_copy, BundleCorruptError, WEIGHTS)


def test_remembering_leaves_one_note(hashed: Hashed, mini_bundle: Path, new_cache: Path):
    """No temporary file stays beside the note."""
    hashed(mini_bundle)
    hashed(mini_bundle, verify="always")
    assert [file.name for file in (new_cache / "verified").iterdir()] == [Bundle.open(mini_bundle).digest]


def test_where_the_memory_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """GTE_CACHE, else the user's cache directory."""
    monkeypatch.setenv("GTE_CACHE", str(tmp_path / "named"))
    assert cache_directory() == tmp_path / "named"
    monkeypatch.delenv("GTE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "gte-runtime"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "gte-runtime"


def _later(file: Path) -> None:
    """Move a file's time on, whatever the clock's resolution."""
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, max(status.st_mtime_ns, time.time_ns()) + 1_000_000_000))
