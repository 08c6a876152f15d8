"""A bundle on disk: what is not what the manifest promises is refused and named, and what was hashed is
remembered.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import wire
from numpy.typing import NDArray
from spoil import Refusal, change_manifest, make_old, no_hanging, replace, replace_signed, vector_of

from gte_runtime import Embedder
from gte_runtime.bundle.directory import Bundle, OpenFiles
from gte_runtime.errors import (
    BundleCorruptError,
    BundleError,
    BundleVersionError,
    SelfCheckFailed,
)

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
    "/etc/passwd", "../x", "a/../../x", "..\\..\\x", "C:\\x", "C:x", "https://example.org/x", "", "a\0b",
    "n" * 300,
    "*/_ORT_MEM_ADDR_/*", ".", "..", ".hidden", "nested/table.bin", "table-fp16.bin\n",
)  # fmt: skip


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


@pytest.mark.parametrize("version", [0, 3, "1", None, [1]])
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    """B-46: with a manifest that fits, the self-check still finds that the vectors are not those of the
    build.
    """
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("location", LOCATIONS)
def test_a_graph_points_to_files_of_its_directory_only(refuses: Refusal, bundle_copy: Path, location: str):
    """B-47: a graph that was changed to point elsewhere fails by its hash; with a manifest to match, it does
    not load.
    """
    graph = wire.set_pointer((bundle_copy / GRAPH).read_bytes(), "location", location)
    replace(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleCorruptError, GRAPH)
    replace_signed(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleError, GRAPH)


def test_a_graph_points_to_listed_files_only(refuses: Refusal, bundle_copy: Path):
    """B-47: a file that no manifest lists was never hashed, so no graph may read it, though it lies beside
    the others.
    """
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("offset", value) for value in ("-4", str(2**62), str(2**64), "abc", "", "5")),
        *(("length", value) for value in ("-4", str(2**62), "abc", "", "5")),
    ],
)
def test_a_graph_points_into_its_files(refuses: Refusal, bundle_copy: Path, key: str, value: str):
    """B-48: offsets and lengths beyond a file, or that are no numbers, fail by the hash and without it."""
    graph = wire.set_pointer((bundle_copy / GRAPH).read_bytes(), key, value)
    replace(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleCorruptError, GRAPH)
    replace_signed(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleError, GRAPH)


@pytest.mark.slow
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


class Hashed:
    """Checks bundles, and tells which files were hashed for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: set[str] = set()
        real = OpenFiles._sha256

        def hash_file(files: OpenFiles, name: str) -> tuple[str, bytes]:
            self.names.add(name)
            return real(files, name)

        monkeypatch.setattr(OpenFiles, "_sha256", hash_file)

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
    """B-46, B-52: a weight file of the same size and time, put in place of one that was hashed, is hashed and
    refused.
    """
    hashed(bundle_copy)
    good = bundle_copy / WEIGHTS
    status, data = good.stat(), bytearray(good.read_bytes())
    data[-1] ^= 0x40
    (bundle_copy / "new").write_bytes(data)
    os.utime(bundle_copy / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(bundle_copy / "new", good)
    refuses(bundle_copy, BundleCorruptError, f"{WEIGHTS}: expected sha256")


def test_a_file_written_to_with_its_time_put_back_is_found(
    hashed: Hashed, refuses: Refusal, bundle_copy: Path
):
    """B-46: size and time of modification can be those of the hashed file; the time of change cannot."""
    hashed(bundle_copy)
    good = bundle_copy / WEIGHTS
    status, last = good.stat(), good.read_bytes()[-1]
    with good.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(good, ns=(status.st_atime_ns, status.st_mtime_ns))
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


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_no_error(hashed: Hashed, mini_bundle: Path, new_cache: Path):
    """Without a place to remember, every opening hashes."""
    new_cache.write_bytes(b"a file where the directory would be")
    for _ in range(2):
        hashed.names.clear()
        Embedder.open(mini_bundle, threads=1).close()
        assert hashed.names == set(FILES)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"null", b'{"a": 1}', b'{"a": [1]}', b'{"a": [1, 2, 3, 4]}', b"[" * 200_000],
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


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_a_note_that_others_could_have_written_is_not_believed(
    hashed: Hashed, mini_bundle: Path, new_cache: Path, mode: int
):
    """Whoever may write a note could say that a file was hashed that never was."""
    hashed(mini_bundle)
    (note,) = (new_cache / "verified").iterdir()
    note.chmod(mode)
    assert hashed(mini_bundle) == set(FILES)


def test_a_bundle_from_before_manifests_had_checksums(bundle_copy: Path, good_vector: NDArray[np.float32]):
    """It opens and says once that it should be built again, however often it is opened."""
    make_old(bundle_copy)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            Bundle.open(bundle_copy)
            with Embedder.open(bundle_copy, threads=1) as gte:
                np.testing.assert_array_equal(vector_of(gte), good_vector)
    (only,) = [str(each.message) for each in caught]
    assert only.startswith("copy was built before manifests had a checksum")
    assert only.endswith("build the bundle again")
    assert "\n" not in only


def test_a_bundle_of_today_says_nothing(mini_bundle: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Bundle.open(mini_bundle)


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


def _later(file: Path) -> None:
    """Move a file's time on, whatever the clock's resolution."""
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, max(status.st_mtime_ns, time.time_ns()) + 1_000_000_000))
