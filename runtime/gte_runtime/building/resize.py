"""Fits graphs and layouts to another height of the two tables that have one row per token and per position.

No operator of a graph depends on these heights: they gather rows, however many there are. So one trace serves
checkpoints with more or fewer tokens or positions: only the shapes of those tensors and the places of all
tensors in the weight files change. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from ..errors import BundleError
from ..format.architecture import Architecture
from ..format.graph import (
    GRAPH_INITIALIZER,
    MODEL_GRAPH,
    PAIR_KEY,
    PAIR_VALUE,
    TENSOR_DIMS,
    TENSOR_EXTERNAL_DATA,
    pointer,
)
from ..format.layout import Layout, Tensor, place
from ..format.protobuf import VARINT, join, message, parts, text, values_of

POSITIONS = ("rope_cos", "rope_sin")
"""Transforms that write a row per position."""
TOKENS = "embeddings.word"
"""The tensor of a checkpoint that has a row per token."""
BY_TOKEN = ("copy", "quantize_table", "quantize_table_rows")
"""Transforms that write a row per row of their source."""


def resize_layout(layout: Layout, architecture: Architecture) -> Layout:
    """A layout with the heights of an architecture; itself where it has them."""
    resized = [_resized(tensor, architecture) for tensor in layout.tensors]
    if resized == list(layout.tensors):
        return layout
    unplaced = [asdict(tensor) for tensor in resized]
    for fields in unplaced:
        del fields["offset"]
    return place(layout.file, unplaced)


def _resized(tensor: Tensor, architecture: Architecture) -> Tensor:
    height = tensor.shape[0] if tensor.shape else 0
    if tensor.transform in POSITIONS:
        height = architecture.max_positions
    elif tensor.transform in BY_TOKEN and tensor.sources[:1] == (TOKENS,):
        height = architecture.vocab_size
    return replace(tensor, shape=(height, *tensor.shape[1:])) if tensor.shape else tensor


def resize_graph(data: bytes, name: str, layouts: Mapping[str, Layout]) -> bytes:
    """A graph whose initializers have the shapes and places that layouts say. Nothing else in it changes.

    Args:
        data: the ONNX file's bytes.
        name: the file's name, for errors.
        layouts: by the names of their weight files.

    Raises:
        BundleError: the bytes are not an ONNX graph, or it points to a tensor that no layout has.
    """
    tensors = {(layout.file, tensor.name): tensor for layout in layouts.values() for tensor in layout.tensors}

    def initializer(raw: bytes) -> bytes:
        found = pointer(values_of(raw))
        return raw if found is None else _moved(raw, tensors[found.file, found.name])

    def graph(raw: bytes) -> bytes:
        return _changed(raw, GRAPH_INITIALIZER, initializer)

    try:
        return _changed(data, MODEL_GRAPH, graph)
    except (KeyError, ValueError) as error:
        raise BundleError(f"{name}: the graph does not belong to its layouts: {str(error)[:120]}") from None


def _changed(data: bytes, field: int, change: Callable[[bytes], bytes]) -> bytes:
    """A message with the messages in one of its fields changed."""
    return join(
        (number, change(message(value)) if number == field else value, wire)
        for number, value, wire in parts(data)
    )


def _moved(raw: bytes, tensor: Tensor) -> bytes:
    """A TensorProto with another shape, offset and length."""
    values = {"offset": f"{tensor.offset}".encode(), "length": f"{tensor.size}".encode()}

    def pair(inner: bytes) -> bytes:
        key = text(values_of(inner)[PAIR_KEY][0])
        return _changed(inner, PAIR_VALUE, lambda value: values.get(key, value))

    kept = [part for part in parts(_changed(raw, TENSOR_EXTERNAL_DATA, pair)) if part[0] != TENSOR_DIMS]
    dims = [(TENSOR_DIMS, size, VARINT) for size in tensor.shape]
    return join([*dims, *kept])  # in the order of their numbers, as protobuf writes them
