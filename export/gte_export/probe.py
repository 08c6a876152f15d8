"""Makes the graph of one int8 product whose result shows whether a processor's kernels overflow.

Every input is the largest value that occurs, so kernels that add two products in 16 bits overflow, and others
do not. `gte_runtime.device.runtime` runs the graph once per process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gte_runtime.building.transforms import LEVELS

from .operators import OPSET, ZERO

SIDE = 64
"""Rows and columns: enough for the kernels that run large products."""


def probe() -> onnx.ModelProto:
    """The graph: `x` uint8 [rows, SIDE] to `y` float32 [rows, SIDE]; all weights are LEVELS."""
    constants: dict[str, np.ndarray[Any, Any]] = {
        "weight": np.full((SIDE, SIDE), LEVELS, np.int8),
        "one": np.array(1, np.float32),
        "scale": np.ones(SIDE, np.float32),
        "zero": np.array(ZERO, np.uint8),
    }
    node = helper.make_node(
        "MatMulIntegerToFloat", ["x", "weight", "one", "scale", "zero"], ["y"], domain="com.microsoft"
    )
    graph = helper.make_graph(
        [node],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", SIDE])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="gte-export")


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(probe().SerializeToString(deterministic=True))
