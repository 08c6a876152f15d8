"""Reading safetensors: every type of the family, and no file that is cut or spoilt."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fuzzing import examples
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from tensorfile import Tensor, read_tensors, safetensors, with_header

from gte_runtime.checkpoint.safetensors import ITEM_SIZES, MAX_HEADER, Entry, SafetensorsFile
from gte_runtime.errors import CheckpointError

SMALL = {
    "a": Tensor.of(np.arange(6, dtype=np.float32).reshape(2, 3) / 4, "F16"),
    "b": Tensor.of(np.array([1.5, -2.25], np.float32), "F32"),
    "c": Tensor.of(np.array([[1.0], [-0.5]], np.float32), "BF16"),
}
WHOLE = safetensors(SMALL)
START = 8 + int.from_bytes(WHOLE[:8], "little")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file that is written again and again, which is quicker than many."""
    return tmp_path_factory.mktemp("files") / "model.safetensors"


@pytest.fixture
def whole(scratch: Path) -> Iterator[SafetensorsFile]:
    scratch.write_bytes(WHOLE)
    with SafetensorsFile(scratch) as file:
        yield file


def opened(path: Path, data: bytes) -> dict[str, Entry]:
    """What the header says; every tensor that may be read is read."""
    path.write_bytes(data)
    with SafetensorsFile(path) as file:
        for name, entry in file.items():
            if entry.dtype in ("F32", "F16", "BF16"):
                file.read(name)
        return dict(file)


def refused(path: Path, data: bytes) -> str:
    """The message, which names the file and not where it lies."""
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    assert type(caught.value) is CheckpointError
    message = str(caught.value)
    assert "model.safetensors" in message
    assert str(path.parent) not in message
    assert len(message) < 400
    return message


def header_of(value: Any) -> bytes:
    return with_header(json.dumps(value).encode()) + bytes(16)


def entry(**changes: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}


@pytest.mark.parametrize(("name", "dtype"), [("a", np.float16), ("b", np.float32), ("c", np.float32)])
def test_values_are_those_of_the_file(whole: SafetensorsFile, name: str, dtype: type):
    """float16 and float32 come as they are stored, bfloat16 is widened without loss."""
    values = whole.read(name)
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, SMALL[name].values())


def test_it_is_a_mapping(whole: SafetensorsFile):
    """Names in the order of the file, with type and shape."""
    assert list(whole) == ["a", "b", "c"]
    assert len(whole) == 3
    assert whole["a"] == Entry("F16", (2, 3), START)
    assert "d" not in whole


def test_some_rows(whole: SafetensorsFile):
    """A slice of the first axis is read without the rest."""
    np.testing.assert_array_equal(whole.read("a", slice(1, 2)), SMALL["a"].values()[1:2])


def test_values_outlive_the_file(scratch: Path):
    """What was read stays when the file is closed."""
    scratch.write_bytes(WHOLE)
    with SafetensorsFile(scratch) as file:
        read = {name: file.read(name) for name in file}
    scratch.write_bytes(bytes(len(WHOLE)))
    for name, values in read.items():
        np.testing.assert_array_equal(values, SMALL[name].values())


def test_metadata_is_no_tensor(scratch: Path):
    """The entry `__metadata__` of most files is passed over."""
    assert list(opened(scratch, header_of({"__metadata__": {"format": "pt"}, **entry()}))) == ["t"]


def test_a_file_of_the_hub(mini_checkpoint_file: Path):
    """Every tensor of the default model reads as another reader reads it."""
    others = read_tensors(mini_checkpoint_file)
    with SafetensorsFile(mini_checkpoint_file) as file:
        assert set(file) == set(others)
        for name, tensor in others.items():
            assert file[name].shape == tensor.shape
            np.testing.assert_array_equal(file.read(name), tensor.values())


@pytest.fixture(scope="session")
def mini_checkpoint_file() -> Path:
    return Path(__file__).parents[3] / "models" / "gte-mini" / "model.safetensors"


@given(
    values=arrays(
        np.float32, array_shapes(max_dims=3, max_side=5), elements=st.floats(width=16, allow_nan=False)
    ),
    dtype=st.sampled_from(["F32", "F16", "BF16"]),
)
def test_any_tensor(scratch: Path, values: np.ndarray, dtype: str):
    """Whatever the shape and type, values come back as they were written."""
    tensor = Tensor.of(values, dtype)
    scratch.write_bytes(safetensors({"other": SMALL["a"], "t": tensor}))
    with SafetensorsFile(scratch) as file:
        np.testing.assert_array_equal(file.read("t"), tensor.values())


@pytest.mark.parametrize("cut", [*range(START + 1), START + 1, len(WHOLE) - 1])
def test_a_file_that_was_cut(scratch: Path, cut: int):
    """A download that broke off is told at every byte of the header, and anywhere in the tensors."""
    assert "cut off" in (message := refused(scratch, WHOLE[:cut])) or "download it again" in message


@given(cut=st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_anywhere(scratch: Path, cut: int):
    """The same for a cut anywhere."""
    refused(scratch, WHOLE[:cut])


@pytest.mark.slow
@settings(max_examples=examples(400))
@given(flips=st.lists(st.tuples(st.integers(0, START - 1), st.integers(1, 255)), min_size=1, max_size=6))
def test_a_header_with_other_bytes(scratch: Path, flips: list[tuple[int, int]]):
    """Bytes that fell over in the header end in a CheckpointError, or in a file that reads without error."""
    data = bytearray(WHOLE)
    for at, bits in flips:
        data[at] ^= bits
    try:
        entries = opened(scratch, bytes(data))
    except CheckpointError:
        event("refused")
    else:
        event("read")
        assert all(e.offset <= len(data) for e in entries.values())


@given(data=st.binary(max_size=300))
def test_random_bytes(scratch: Path, data: bytes):
    """Bytes that are no safetensors file are refused."""
    try:
        opened(scratch, data)
    except CheckpointError:
        return
    assert int.from_bytes(data[:8], "little") + 8 <= len(data)  # two bytes that happen to be {}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    header=VALUES
    | st.fixed_dictionaries(
        {
            "t": st.fixed_dictionaries(
                {"dtype": st.just("F32") | VALUES, "shape": VALUES, "data_offsets": VALUES}
            )
        }
    )
)
def test_a_random_header(scratch: Path, header: object):
    """Any JSON in place of a header is refused or read, and nothing else happens."""
    try:
        opened(scratch, header_of(header))
    except CheckpointError:
        event("refused")
    else:
        event("read")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "0 bytes"),
        (b"\0" * 8, "cut off"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 611\n", "run git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "not a safetensors file"),
        (b"PK\3\4" + bytes(100), "not a safetensors file"),
        ((2**63).to_bytes(8, "little") + bytes(100), "not a safetensors file"),
        ((MAX_HEADER + 1).to_bytes(8, "little") + bytes(100), "not a safetensors file"),
        (with_header(b"no json!"), "not JSON"),
        (with_header(b'{"a": \xff\xfe}'), "not JSON"),
        (with_header(b"[" * 100_000), "not JSON"),
        (with_header(b'{"a": ' * 50_000), "not JSON"),
        (with_header(b"[]"), "not an object"),
        (with_header(b"1" * 5000), "not JSON"),
        (with_header(json.dumps(entry()).encode("utf-16")) + bytes(16), "not JSON"),
        (with_header(b" " + json.dumps(entry()).encode()) + bytes(16), "not JSON"),
        (with_header(b"\xef\xbb\xbf" + json.dumps(entry()).encode()) + bytes(16), "not JSON"),
        (with_header(json.dumps(entry(shape=[float("nan")])).encode()), "NaN"),
        (with_header(json.dumps(entry(shape=[float("inf")])).encode()), "Infinity"),
        (with_header(b'{"t": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 16]}}'), "out of range"),
        (with_header(b'{"__metadata__": {"a": 1}}'), "__metadata__"),
    ],
    ids=[
        "empty",
        "zeros",
        "lfs",
        "html",
        "zip",
        "2^63",
        "too long",
        "words",
        "utf16",
        "nested",
        "nested objects",
        "list",
        "digits",
        "utf16 header",
        "space in front",
        "byte order mark",
        "NaN",
        "Infinity",
        "beyond float",
        "metadata of numbers",
    ],
)
def test_a_file_that_is_none(scratch: Path, data: bytes, word: str):
    """Whatever else lies under that name, the message says what it is or is not."""
    assert word in refused(scratch, data)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2, 3]},
        {"shape": [-2, -2]},
        {"shape": [2**40, 2**40]},
        {"shape": "22"},
        {"shape": None},
        {"shape": [2, "x"]},
        {"data_offsets": [0, 12]},
        {"data_offsets": [16, 0]},
        {"data_offsets": [-16, 0]},
        {"data_offsets": [8, 24]},
        {"data_offsets": [0, 2**62]},
        {"data_offsets": [0]},
        {"data_offsets": None},
        {"data_offsets": {"0": 1, "16": 2}},
        {"shape": {"2": 1}, "data_offsets": [0, 0]},
        {"shape": [1] * 9, "data_offsets": [0, 4]},
        {"shape": [2**63, 0], "data_offsets": [0, 0]},
        {"dtype": "F8_E4M3"},
        {"dtype": None},
        {"dtype": "I64"},
        {"dtype": "x" * 500},
    ],
    ids=repr,
)
def test_an_entry_that_does_not_fit(scratch: Path, change: dict[str, Any]):
    """Types, shapes and places that contradict one another or lead out of the file are refused, naming the
    tensor.
    """
    assert "tensor t" in refused(scratch, header_of(entry(**change)))


@pytest.mark.parametrize("record", [None, 5, "x", [], {}, {"dtype": "F32"}])
def test_an_entry_that_is_none(scratch: Path, record: object):
    """The same for entries of another kind."""
    assert "tensor t" in refused(scratch, header_of({"t": record}))


def test_a_long_name_is_not_repeated_in_full(scratch: Path):
    """A message shows the beginning of a name that somebody else chose."""
    refused(scratch, header_of({"n" * 5000: None}))


def test_types_that_may_lie_beside_the_weights(scratch: Path):
    """Integers and the like are known by size, so that a buffer among the weights does not stop a build."""
    for dtype, size in ITEM_SIZES.items():
        assert (
            opened(
                scratch,
                with_header(json.dumps(entry(dtype=dtype, data_offsets=[0, 4 * size])).encode())
                + bytes(4 * size),
            )["t"].dtype
            == dtype
        )


def test_nothing_stays_open(scratch: Path):
    """Neither a good file nor a bad one leaves a descriptor behind."""
    before = psutil.Process().num_fds()
    opened(scratch, WHOLE)
    refused(scratch, WHOLE[:50])
    assert psutil.Process().num_fds() == before


def tensors(*places: tuple[str, int, int], data: int) -> bytes:
    """A file whose header names float32 tensors by their first byte and the byte after the last."""
    header = {
        name: {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}
        for name, begin, end in places
    }
    return with_header(json.dumps(header).encode()) + bytes(data)


TWICE = b'{"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, ' * 2
FORBIDDEN = {
    "overlap": (tensors(("a", 0, 16), ("b", 8, 24), data=24), "overlaps"),
    "same place": (tensors(("a", 0, 16), ("b", 0, 16), data=16), "overlaps"),
    "inside": (tensors(("a", 0, 16), ("b", 4, 8), data=16), "overlaps"),
    "hole": (tensors(("a", 0, 16), ("b", 24, 40), data=40), "hole"),
    "hole in front": (tensors(("a", 8, 16), data=16), "hole"),
    "bytes behind": (tensors(("a", 0, 16), data=20), "after its last tensor"),
    "no tensor": (with_header(b"{}") + bytes(16), "after its last tensor"),
    "key twice": (with_header(TWICE[:-2].replace(b"}, {", b"}, ") + b"}") + bytes(16), "twice"),
    "key of an entry twice": (
        with_header(b'{"t": {"dtype": "F32", "shape": [2], "shape": [4], "data_offsets": [0, 16]}}')
        + bytes(16),
        "twice",
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_the_format_forbids(scratch: Path, what: str):
    """Tensors that overlap, holes between them, bytes behind them and duplicate keys: two readers could see
    different weights in such a file."""
    data, word = FORBIDDEN[what]
    assert word in refused(scratch, data)


def test_a_shape_whose_product_takes_minutes(scratch: Path):
    """A header of 4 MB with 200,000 large numbers is refused before they are multiplied."""
    before = time.monotonic()
    refused(scratch, header_of(entry(shape=[2**60] * 200_000)))
    assert time.monotonic() - before < 30


def test_tensors_in_another_order_than_their_names(scratch: Path):
    """The order in the header is free: only the places count, and tensors without values take none."""
    data = tensors(("b", 8, 24), ("none", 8, 8), ("a", 0, 8), data=24)
    assert list(opened(scratch, data)) == ["b", "none", "a"]


@pytest.mark.parametrize("kind", ["directory", "pipe", "nothing", "long name"])
def test_a_path_that_cannot_be_read(tmp_path: Path, kind: str):
    """No OSError comes out, and a named pipe is not waited for."""
    path = tmp_path / "model.safetensors"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "long name":
        path = tmp_path / ("n" * 300)
    with pytest.raises(CheckpointError):
        SafetensorsFile(path)


PLACES = st.tuples(st.integers(0, 10), st.integers(0, 10)).map(lambda pair: (min(pair) * 4, max(pair) * 4))


@settings(max_examples=examples(200))
@given(
    places=st.lists(PLACES, max_size=4),
    data=st.integers(0, 44),
    damage=st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=3)), max_size=2),
)
def test_what_we_accept_the_reference_accepts(
    scratch: Path, places: list[tuple[int, int]], data: int, damage: list[tuple[int, bytes]]
):
    """The format's own implementation refuses every file that is refused here for its places, and the values
    are equal."""
    reference = pytest.importorskip("safetensors")
    whole = bytearray(tensors(*((f"t{n}", *place) for n, place in enumerate(places)), data=data))
    for at, put in damage:
        whole[at : at + len(put)] = put
    try:
        ours = opened(scratch, bytes(whole))
    except CheckpointError:
        event("refused")
        return
    event("read")
    theirs = dict(reference.deserialize(bytes(whole)))
    assert {name: (e.dtype, list(e.shape)) for name, e in ours.items()} == {
        name: (t["dtype"], t["shape"]) for name, t in theirs.items()
    }
    for name, found in ours.items():
        assert bytes(whole[found.offset : found.offset + found.size]) == bytes(theirs[name]["data"])
