"""Layouts: places of tensors in a file, and every layout that contradicts itself is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from gte_runtime.building.transforms import TRANSFORMS
from gte_runtime.errors import BundleError
from gte_runtime.format.layout import ALIGNMENT, Layout, place

MODELS = Path(__file__).parents[3] / "models"


def test_places_start_on_pages():
    """Each tensor begins on a page of its own, in the order given, and as near as that allows."""
    layout = place("w.bin", [_fields("a", (3,)), _fields("b", (ALIGNMENT,)), _fields("c", (1,), "float16")])
    assert [t.offset for t in layout.tensors] == [0, ALIGNMENT, 5 * ALIGNMENT]
    assert layout.size == 5 * ALIGNMENT + 2


SHAPES = st.lists(st.integers(1, 5000), min_size=1, max_size=2).map(tuple)


TENSORS = st.lists(
    st.tuples(SHAPES, st.sampled_from(["float32", "float16"]), st.sampled_from(sorted(TRANSFORMS))),
    min_size=1,
    max_size=6,
)


@given(TENSORS)
def test_json_and_back(parts: list[tuple[tuple[int, ...], str, str]]):
    """Any layout is read as it was written."""
    layout = place(
        "w.bin", [_fields(f"t{n}", shape, dtype, kind) for n, (shape, dtype, kind) in enumerate(parts)]
    )
    assert Layout.from_json(layout.to_json()) == layout
    ends = [t.offset + t.size for t in layout.tensors]
    assert all(t.offset % ALIGNMENT == 0 for t in layout.tensors)
    assert all(0 <= t.offset - end < ALIGNMENT for t, end in zip(layout.tensors[1:], ends, strict=False))


@pytest.mark.parametrize(
    "file", sorted(MODELS.glob("*/*.layout.json")), ids=lambda file: f"{file.parent.name}/{file.name}"
)
def test_shipped_layouts_are_written_as_we_write_them(file: Path):
    """Reading and writing a shipped layout gives the same bytes."""
    text = file.read_text(encoding="utf-8")
    assert Layout.from_json(text).to_json() == text


def _fields(
    name: str, shape: tuple[int, ...], dtype: str = "float32", transform: str = "copy"
) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "transform": transform, "sources": (name,)}


def _raw(**changes: Any) -> dict[str, Any]:
    """A layout of two tensors as JSON, the second one changed."""
    raw: dict[str, Any] = json.loads(place("w.bin", [_fields("a", (2, 2)), _fields("b", (4,))]).to_json())
    raw["tensors"][1].update(changes)
    return raw


def refused(raw: object, *words: str) -> None:
    text = raw if isinstance(raw, str) else json.dumps(raw)
    with pytest.raises(BundleError) as caught:
        Layout.from_json(text)
    assert type(caught.value) is BundleError
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("offset", [0, 8, 15, -4096, -1])
def test_tensors_that_overlap(offset: int):
    """A tensor that begins inside its neighbour, or before the file, is named."""
    refused(_raw(offset=offset), "w.bin", "b")


def test_an_unknown_transform():
    """A layout of a later version names what this one cannot do."""
    refused(_raw(transform="sparsify"), "w.bin", "unknown transform 'sparsify' of b")


@pytest.mark.parametrize("dtype", ["int4", "float64", "bfloat16", "", "x" * 500])
def test_an_unknown_type(dtype: str):
    """Only float32, float16 and int8 are written."""
    refused(_raw(dtype=dtype), "w.bin", "b")


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": "4096"},
        {"offset": 4096.5},
        {"offset": None},
        {"shape": [-4]},
        {"shape": ["4"]},
        {"shape": 4},
        {"shape": None},
        {"shape": [0]},
        {"dtype": 5},
        {"dtype": None},
        {"transform": ["copy"]},
        {"transform": None},
        {"sources": None},
        {"sources": [1]},
        {"name": 3},
        {"more": 1},
    ],
    ids=repr,
)
def test_a_tensor_that_is_none(changes: dict[str, Any]):
    """A field of another type, or one too many, is refused when the layout is read."""
    refused(_raw(**changes))


@pytest.mark.parametrize("file", ["../w.bin", "/w.bin", "", "a/b", "..", 5, None])
def test_a_layout_of_a_file_elsewhere(file: object):
    """A weight file lies in the bundle's own directory."""
    refused({**_raw(), "file": file})


@pytest.mark.parametrize(
    "raw", ["", "{", "[" * 100_000, "null", "[]", "5", '"x"', "{}"], ids=lambda raw: raw[:5]
)
def test_text_that_is_no_layout(raw: str):
    """Whatever else the file holds is no layout."""
    refused(raw)


@pytest.mark.parametrize("key", ["file", "tensors"])
def test_a_layout_without_one_of_its_parts(key: str):
    """A missing part is named."""
    refused({k: v for k, v in _raw().items() if k != key}, "not a layout", key)


@pytest.mark.parametrize("tensors", [[], {}, None, 5, ["x"]], ids=repr)
def test_a_layout_without_tensors(tensors: object):
    """A weight file holds at least one tensor."""
    refused({**_raw(), "tensors": tensors})


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_a_layout_of_another_format(version: object):
    """Another format number is told as such."""
    refused({**_raw(), "format": version}, f"layout format {version!r}; this version reads 1")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.slow
@given(key=st.sampled_from(["name", "dtype", "shape", "offset", "transform", "sources"]), value=VALUES)
def test_any_value(key: str, value: object):
    """Whatever stands in a field, the layout is read or refused."""
    try:
        layout = Layout.from_json(json.dumps(_raw(**{key: value})))
    except BundleError:
        event("refused")
    else:
        event("read")
        assert layout.size >= layout.tensors[1].offset
