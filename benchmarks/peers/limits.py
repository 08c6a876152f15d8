"""Measures the most that the machine can do: GFLOP/s of plain matrix products.

    python -m peers.limits torch|onnxruntime THREADS

The best of several shapes and repeats; the driver takes the best of both libraries.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np

SHAPES = ((1024, 768, 3072), (1024, 3072, 768), (2048, 2048, 2048))
SECONDS = 0.8
"""Per shape and kind."""
SMALL = (64, 768, 768)
HOPELESS = 20.0
"""GFLOP/s at SMALL below which a kind has no fast kernel here; the large shapes would take minutes."""


def best(run: Callable[[], object], m: int, k: int, n: int) -> float:
    """GFLOP/s of the fastest run."""
    run()
    fastest, start = float("inf"), time.perf_counter()
    while (before := time.perf_counter()) - start < SECONDS:
        run()
        fastest = min(fastest, time.perf_counter() - before)
    return 2e-9 * m * k * n / fastest


def with_torch(threads: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(threads)

    def product(kind: str, m: int, k: int, n: int) -> float:
        if kind == "int8":
            a8, b8 = (torch.randint(-127, 127, shape, dtype=torch.int8) for shape in ((m, k), (k, n)))
            return best(lambda: torch._int_mm(a8, b8), m, k, n)
        a, b = (
            torch.randn(shape, dtype=torch.float32 if kind == "fp32" else torch.bfloat16)
            for shape in ((m, k), (k, n))
        )
        return best(lambda: a @ b, m, k, n)

    found = {kind: product(kind, *SMALL) for kind in ("fp32", "bf16", "int8")}
    return {
        kind: max(product(kind, *shape) for shape in SHAPES) if value > HOPELESS else value
        for kind, value in found.items()
    }


def with_onnxruntime(threads: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    found = {"fp32": 0.0, "int8": 0.0}
    for m, k, n in SHAPES:
        a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
        found["fp32"] = max(found["fp32"], best(_session("MatMul", "", a, {"b": b}, threads), m, k, n))
        scale = {"a_scale": np.float32(1), "b_scale": np.ones(n, np.float32), "zero": np.uint8(128)}
        a8, b8 = rng.integers(0, 255, (m, k), np.uint8), rng.integers(-64, 64, (k, n), np.int8)
        run = _session("MatMulIntegerToFloat", "com.microsoft", a8, {"b": b8} | scale, threads)
        found["int8"] = max(found["int8"], best(run, m, k, n))
    return found


def _session(
    operator: str, domain: str, a: np.ndarray, constants: dict[str, np.ndarray], threads: int
) -> Callable[[], object]:
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    node = helper.make_node(operator, ["a", *constants], ["y"], domain=domain)
    entry = helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "gemm", [entry], [result], initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"a": a})


if __name__ == "__main__":
    count = int(sys.argv[2])
    print(json.dumps(with_torch(count) if sys.argv[1] == "torch" else with_onnxruntime(count)))
