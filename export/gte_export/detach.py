"""Replaces the weights of a traced graph by pointers into weight files, as its layouts say."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import TensorProto

from gte_runtime.format.layout import Layout

LARGEST_INSIDE = 1024
"""Bytes of the largest constant that may stay in a graph."""

DTYPES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.INT8: "int8"}


class DetachError(ValueError):
    """The graph has weights that are in no layout, or lacks some that are."""


def detach(model: onnx.ModelProto, layouts: Iterable[Layout]) -> onnx.ModelProto:
    """Replace the values of every initializer by a pointer, in place, and return the model.

    Initializers get the shapes of the layouts, because the embedding and RoPE tables are traced with few
    rows.

    Raises:
        DetachError: graph and layouts do not have the same tensors, or a large constant is left in the graph.
    """
    places = {tensor.name: (layout.file, tensor) for layout in layouts for tensor in layout.tensors}
    for initializer in model.graph.initializer:
        try:
            file, tensor = places.pop(initializer.name)
        except KeyError:
            raise DetachError(f"initializer {initializer.name} is in no layout") from None
        if (
            DTYPES.get(initializer.data_type) != tensor.dtype
            or list(initializer.dims)[1:] != list(tensor.shape)[1:]
        ):
            raise DetachError(
                f"initializer {initializer.name}: {list(initializer.dims)} in the graph, "
                f"{list(tensor.shape)} {tensor.dtype} in the layout"
            )
        initializer.ClearField("raw_data")
        initializer.ClearField("dims")
        initializer.dims.extend(tensor.shape)
        initializer.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", tensor.offset), ("length", tensor.size)):
            initializer.external_data.add(key=key, value=str(value))
    if places:
        raise DetachError(f"the graph does not use {', '.join(sorted(places))}")
    for node in model.graph.node:
        for attribute in node.attribute:
            if len(attribute.t.raw_data) > LARGEST_INSIDE:
                raise DetachError(f"node {node.name} holds a constant of {len(attribute.t.raw_data)} bytes")
    return model
