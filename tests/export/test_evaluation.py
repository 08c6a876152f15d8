"""The evaluator in numpy: operator by operator against ONNX Runtime's own kernels, and whole graphs against
PyTorch and the oracle.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from golden import Golden
from numpy.typing import NDArray
from onnx import TensorProto, helper

from gte_export.attention.padded import PaddedAttention
from gte_export.encoders.float import Encoder
from gte_export.plans import plans
from gte_export.random_checkpoint import Form, write_random_checkpoint
from gte_export.trace import trace
from gte_runtime.building.build import build
from gte_runtime.building.judge import judge
from gte_runtime.bundle.directory import Bundle
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.format.manifest import Manifest
from gte_runtime.inference.batch import make_batch
from gte_runtime.proof.graph_in_numpy import SPLIT_GELU_WIDTHS, Evaluator
from gte_runtime.proof.oracle import forward

Array = NDArray[Any]
RNG = np.random.default_rng(5)
MICROSOFT = "com.microsoft"
NOT_ON_CPU = "PackedMultiHeadAttention"


def model(
    kind: str, inputs: dict[str, Array], outputs: int = 1, domain: str = "", **attributes: Any
) -> bytes:
    """A graph of one operator."""
    node = helper.make_node(
        kind, list(inputs), [f"out{i}" for i in range(outputs)], domain=domain, **attributes
    )
    declared = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in inputs.items()
    ]
    kinds = helper.np_dtype_to_tensor_dtype(next(iter(inputs.values())).dtype)
    given = [helper.make_tensor_value_info(f"out{i}", kinds, None) for i in range(outputs)]
    graph = helper.make_graph([node], "one", declared, given)
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)], ir_version=9
    )
    data: bytes = made.SerializeToString()
    return data


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape, dtype=np.float32)


X = floats(1, 7, 16)
CASES: dict[str, tuple[str, dict[str, Array], int, str, dict[str, Any]]] = {
    "Add": ("Add", {"a": X, "b": floats(16)}, 1, "", {}),
    "Mul": ("Mul", {"a": X, "b": floats(1, 7, 16)}, 1, "", {}),
    "MatMul": ("MatMul", {"a": X, "b": floats(16, 5)}, 1, "", {}),
    "Gelu": ("Gelu", {"x": X * 3}, 1, "", {}),
    "Relu": ("Relu", {"x": X}, 1, "", {}),
    "Gather": ("Gather", {"x": floats(9, 4), "i": np.array([[3, 0, 8]])}, 1, "", {}),
    "Reshape": ("Reshape", {"x": X, "s": np.array([-1, 4])}, 1, "", {}),
    "Reshape, 0": ("Reshape", {"x": X, "s": np.array([0, 2, -1])}, 1, "", {}),
    "Slice": (
        "Slice",
        {"x": floats(9), "s": np.array([0]), "e": np.array([-1]), "a": np.array([0]), "t": np.array([1])},
        1,
        "",
        {},
    ),
    "Slice, by two": (
        "Slice",
        {"x": X, "s": np.array([1]), "e": np.array([9]), "a": np.array([2]), "t": np.array([2])},
        1,
        "",
        {},
    ),
    "Split": ("Split", {"x": X, "s": np.array([12, 4])}, 2, "", {"axis": -1}),
    "Split, even": ("Split", {"x": X}, 2, "", {"axis": -1, "num_outputs": 2}),
    "Unsqueeze": ("Unsqueeze", {"x": floats(9), "a": np.array([0])}, 1, "", {}),
    "LayerNormalization": (
        "LayerNormalization",
        {"x": X, "w": floats(16), "b": floats(16)},
        1,
        "",
        {"epsilon": 1e-12},
    ),
    "SkipLayerNormalization": (
        "SkipLayerNormalization",
        {"x": X, "skip": floats(1, 7, 16), "w": floats(16), "beta": floats(16), "bias": floats(16)},
        1,
        MICROSOFT,
        {"epsilon": 1e-12},
    ),
    "RotaryEmbedding": (
        "RotaryEmbedding",
        {"x": X, "p": np.array([[0, 1, 2, 0, 1, 2, 3]]), "cos": floats(20, 2), "sin": floats(20, 2)},
        1,
        MICROSOFT,
        {"num_heads": 4, "is_packed_batching": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operators_are_those_of_onnxruntime(case: str, tmp_path: Path):
    """In float32, where the CPU has a kernel, the evaluator gives what the kernel gives."""
    kind, inputs, outputs, domain, attributes = CASES[case]
    data = model(kind, inputs, outputs, domain, **attributes)
    expected = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, inputs)
    found = Evaluator(data, tmp_path).run(inputs)
    for name, value in zip((f"out{i}" for i in range(outputs)), expected, strict=True):
        np.testing.assert_allclose(found[name], value, rtol=2e-6, atol=2e-6)


def test_cast(tmp_path: Path):
    """To float16, by IEEE rounding."""
    data = model("Cast", {"x": X}, to=TensorProto.FLOAT16)
    assert np.array_equal(Evaluator(data, tmp_path).run({"x": X})["out0"], X.astype(np.float16))


def test_packed_attention_is_attention_text_by_text(tmp_path: Path):
    """Against MultiHeadAttention's CPU kernel on each text alone; an empty text takes no rows and disturbs
    nobody.
    """
    bounds = np.array([0, 3, 3, 10], np.int32)
    q, k, v = (floats(10, 16) for _ in range(3))
    inputs = {"q": q, "k": k, "v": v, "": floats(0), "o": np.zeros((3, 7), np.int32), "c": bounds}
    packed = model(
        NOT_ON_CPU, {name: value for name, value in inputs.items() if name}, domain=MICROSOFT, num_heads=4
    )
    graph = onnx.load_from_string(packed)
    graph.graph.node[0].input[:] = ["q", "k", "v", "", "o", "c"]
    found = Evaluator(graph.SerializeToString(), tmp_path).run(
        {name: value for name, value in inputs.items() if name}
    )["out0"]
    alone = {"q": q[None, :3], "k": k[None, :3], "v": v[None, :3]}
    for start, end in ((0, 3), (3, 10)):
        alone = {"q": q[None, start:end], "k": k[None, start:end], "v": v[None, start:end]}
        data = model("MultiHeadAttention", alone, domain=MICROSOFT, num_heads=4)
        expected = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, alone)[0]
        np.testing.assert_allclose(found[start:end], expected[0], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("width", SPLIT_GELU_WIDTHS[:2])
def test_bias_split_gelu_is_its_parts(tmp_path: Path, width: int):
    """left x gelu(right) by ONNX Runtime's Gelu."""
    x, bias = floats(1, 3, width), floats(width)
    found = Evaluator(model("BiasSplitGelu", {"x": x, "b": bias}, domain=MICROSOFT), tmp_path).run(
        {"x": x, "b": bias}
    )["out0"]
    left, right = np.split(x + bias, 2, -1)
    gelu = onnxruntime.InferenceSession(model("Gelu", {"x": right}), providers=["CPUExecutionProvider"]).run(
        None, {"x": right}
    )[0]
    np.testing.assert_allclose(found, left * gelu, rtol=2e-6, atol=2e-6)


def test_what_the_kernels_refuse_is_refused(tmp_path: Path):
    """A width without kernel, positions behind the table, bounds that do not fit: CUDA would fail, or worse,
    not fail.
    """
    x, bias = floats(1, 3, 320), floats(320)
    with pytest.raises(ValueError, match="no kernel for a width of 320"):
        Evaluator(model("BiasSplitGelu", {"x": x, "b": bias}, domain=MICROSOFT), tmp_path).run(
            {"x": x, "b": bias}
        )
    _, inputs, _, _, attributes = CASES["RotaryEmbedding"]
    far = inputs | {"p": np.full((1, 7), 20)}
    with pytest.raises(IndexError, match="the table has 20"):
        Evaluator(model("RotaryEmbedding", far, domain=MICROSOFT, **attributes), tmp_path).run(far)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint as wide in its MLP as BiasSplitGelu wants it, and its cuda-fp16 graph."""
    from gte_export import trace as module

    folder = tmp_path_factory.mktemp("wide")
    config = {
        "model_type": "new", "architectures": ["NewForTokenClassification"], "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 1280, "hidden_act": "gelu", "vocab_size": 1536,
        "pad_token_id": 1,
        "type_vocab_size": 1, "max_position_embeddings": 512, "position_embedding_type": "rope",
        "rope_theta": 20000,
        "rope_scaling": {"type": "ntk", "factor": 8.0}, "layer_norm_type": "layer_norm",
        "layer_norm_eps": 1e-12, "pack_qkv": True,
    }  # fmt: skip
    write_random_checkpoint(folder / "checkpoint", config, Form(dtype="F16"), seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "plans", lambda a: (plan for plan in plans(a) if plan.variant == "cuda-fp16"))
        trace(folder / "checkpoint", folder / "graphs")
    return folder / "checkpoint", folder / "graphs"


def cosines(found: Array, expected: Array) -> Array:
    cosine: Array = (
        (found * expected).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
    )
    return cosine


def test_the_whole_graph_with_its_fused_operators(wide: tuple[Path, Path], golden: Golden, tmp_path: Path):
    """Built by numpy alone, evaluated as it runs on CUDA, against the PyTorch encoder and the oracle on the
    same checkpoint.
    """
    checkpoint, graphs = wide
    (checkpoint / "tokenizer.json").write_bytes((golden.checkpoint / "tokenizer.json").read_bytes())
    manifest = build(checkpoint, tmp_path / "bundle", graphs=graphs, variants=("cuda-fp16",))
    session = judge(tmp_path / "bundle", manifest, "cuda-fp16")
    ids = [RNG.integers(0, 320, length) for length in (2, 64, 3, 130, 17)]
    out = session.run(make_batch(np.arange(len(ids)), ids, 128))
    with Checkpoint(checkpoint) as opened:
        expected = [forward(opened, one) for one in ids]
        torch_states = _torch(opened, ids)
    assert cosines(out.cls, np.stack([reference.cls for reference in expected])).min() >= 0.9999
    assert cosines(out.cls, torch_states).min() >= 0.9999
    weights = np.concatenate([reference.token_weights for reference in expected])
    assert np.abs(out.token_weights - weights).max() <= 5e-3 * max(1, weights.max())


def _torch(checkpoint: Checkpoint, ids: list[Array]) -> Array:
    import torch

    a = checkpoint.config.architecture
    encoder = Encoder(a, PaddedAttention(a)).eval().load(checkpoint)
    with torch.inference_mode():
        rows = [
            encoder(
                input_ids=torch.from_numpy(i)[None], attention_mask=torch.ones(1, len(i), dtype=torch.int64)
            )
            for i in ids
        ]
    return np.concatenate([row["cls"].numpy() for row in rows])


def test_upstream_outputs(golden: Golden, tmp_path: Path):
    """The golden checkpoint in cuda-fp16 agrees with what upstream's code says of it, all texts in one run
    and each alone.
    """
    manifest = build(golden.checkpoint, tmp_path / "bundle", graphs=golden.graphs, variants=("cuda-fp16",))
    session = judge(tmp_path / "bundle", manifest, "cuda-fp16")
    ids = [golden.ids(text) for text in range(len(golden.texts))]
    together = session.run(make_batch(np.arange(len(ids)), ids, 128)).cls
    alone = np.concatenate(
        [session.run(make_batch(np.array([row]), ids, 128)).cls for row in range(len(ids))]
    )
    assert cosines(together, golden.cls()).min() >= 0.9999
    assert cosines(alone, golden.cls()).min() >= 0.9999


@pytest.mark.parametrize(
    "file",
    sorted(Path(__file__).parents[2].glob("models/*/cuda-fp16.*.onnx")),
    ids=lambda file: file.parent.name,
)
def test_onnxruntime_accepts_the_graph_up_to_the_kernels(file: Path, tmp_path: Path):
    """Its schemas and its inference of types and shapes find no fault; only kernels are missing on a CPU.

    The same graph with one input of another type does not come that far.
    """
    # Disabled: an optimizer would fold weights that are not there.
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = onnx.load(file, load_external_data=False)
    for initializer in proto.graph.initializer:
        del initializer.external_data[:]
        initializer.data_location = TensorProto.DEFAULT
        rows = (
            [min(8, initializer.dims[0]), *initializer.dims[1:]]
            if initializer.name == "embeddings.word"
            else list(initializer.dims)
        )
        initializer.dims[:] = rows
        initializer.raw_data = bytes(int(np.prod(rows)) * 2)

    def refusal() -> str:
        with pytest.raises(Exception, match=r".") as caught:
            onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        return str(caught.value)

    assert "NOT_IMPLEMENTED" in (message := refusal())
    assert NOT_ON_CPU in message or "BiasSplitGelu" in message
    offset = next(value for value in proto.graph.input if value.name == "token_offset")
    offset.type.tensor_type.elem_type = TensorProto.INT64
    assert "INVALID_GRAPH" in (message := refusal()), message
    assert NOT_ON_CPU in message


def test_an_operator_that_is_not_known(golden: Golden, tiny_bundle: Path):
    """Graphs of other kinds are not evaluated by half."""
    manifest: Manifest = Bundle.open(tiny_bundle).manifest
    odd = replace(manifest, variants={"x": replace(manifest.variants["cpu-fp32"], batch="packed")})
    with pytest.raises(Exception, match="cannot be evaluated without its device"):
        judge(tiny_bundle, odd, "x")
