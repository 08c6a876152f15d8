"""Traces the encoder into the graphs of an architecture and writes them with their layouts and recipe.

optimum drives the trace and compares each graph with PyTorch on random weights. The embedding and
RoPE tables are traced with a few rows: their height is data, and is written when weights are
taken out.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from optimum.exporters.onnx import export
from optimum.exporters.onnx.convert import validate_model_outputs
from transformers import PretrainedConfig

from gte_runtime.checkpoint.config import read_config
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.format.architecture import Architecture
from gte_runtime.format.graph import inspect_graph
from gte_runtime.format.layout import DTYPES, Layout
from gte_runtime.format.recipe import FILE as RECIPE
from gte_runtime.format.recipe import GraphRecipe, Recipe, read_recipe
from gte_runtime.proof.graph_in_numpy import Evaluator

from .detach import detach
from .encoders.float import TracedEncoder
from .layout import TABLE, outliers_layout, packed_layout, table_file, table_layout, weights_layout
from .onnx_config import EncoderOnnxConfig
from .operators import OPSET
from .plans import Plan, plans

TRACED_ROWS = 32
"""Rows of the embedding and RoPE tables while tracing; at least the longest dummy text."""


def trace(source: Path, output: Path) -> Recipe:
    """Write graphs, layouts and recipe.toml for the architecture of a config or checkpoint.

    Args:
        source: config.json or an architecture's recipe.toml, or a directory that holds one.
        output: a directory, made if it is not there. Its name becomes the architecture's.

    Raises:
        CheckpointError: the config is not one we implement.
        ValueError: a traced graph differs from PyTorch, or lost an operator.
    """
    a, reranker = numbers(source)
    output.mkdir(parents=True, exist_ok=True)
    layouts = {}
    for layout in (
        *(table_layout(a, dtype) for dtype in DTYPES),
        *(weights_layout(a, dtype, reranker) for dtype in DTYPES),
        outliers_layout(a, reranker),
        packed_layout(a, "float16", reranker),
    ):
        layouts[layout.file] = layout
        (output / layout_name(layout)).write_text(layout.to_json(), encoding="utf-8")
    graphs = tuple(_graph(plan, a, layouts, output, reranker) for plan in plans(a))
    recipe = Recipe(name=output.resolve().name, architecture=a, graphs=graphs)
    (output / RECIPE).write_text(recipe.to_toml(), encoding="utf-8")
    return recipe


def numbers(source: Path) -> tuple[Architecture, bool]:
    """An architecture, and whether it is a reranker's: by the tensors where there are any, else by what the config says."""
    if (source / "model.safetensors").is_file():
        with Checkpoint(source, ignore_unused=True) as checkpoint:
            return checkpoint.config.architecture, checkpoint.reranker
    if source.name == RECIPE or ((source / RECIPE).exists() and not (source / "config.json").exists()):
        recipe = read_recipe(source.parent if source.name == RECIPE else source)
        return recipe.architecture, recipe.reranker
    config = read_config(source)
    return config.architecture, config.names_reranker


def layout_name(layout: Layout) -> str:
    return f"{layout.file.removesuffix('.bin')}.layout.json"


def _graph(
    plan: Plan, a: Architecture, layouts: dict[str, Layout], output: Path, reranker: bool
) -> GraphRecipe:
    files = (table_file(plan.table), plan.file_of_weights(plan.weights))
    model = detach(_traced(plan, a, reranker), [layouts[file] for file in files])
    _count_operators(model, plan, a.layers)
    if not reranker:
        # The tracer knows no shapes behind operators of ours, so it leaves the width open.
        for index, axis in ((0, 1), (2, 2)):
            model.graph.output[index].type.tensor_type.shape.dim[axis].dim_value = a.hidden_size
        if plan.batch != "padded":
            model.graph.output[2].type.tensor_type.shape.dim[0].dim_value = 1
    data = model.SerializeToString(deterministic=True)
    (output / plan.file).write_bytes(data)
    facts = inspect_graph(data, plan.file)
    return GraphRecipe(
        variant=plan.variant,
        table=plan.table,
        batch=plan.batch,
        outliers=plan.outliers,
        file=plan.file,
        sha256=hashlib.sha256(data).hexdigest(),
        weights=files,
        inputs=facts.inputs,
        outputs=facts.outputs,
        min_onnxruntime=plan.min_onnxruntime,
        tolerance=plan.tolerance,
    )


def _traced(plan: Plan, a: Architecture, reranker: bool) -> onnx.ModelProto:
    """Trace with random weights, validate every way through the graph, return it with its weights."""
    torch.manual_seed(0)
    small = replace(a, vocab_size=TRACED_ROWS, max_positions=TRACED_ROWS)
    attention = plan.attention(small)
    encoder = plan.encoder(small, attention).eval()
    if reranker:
        encoder = encoder.as_reranker().eval()
    encoder.config = PretrainedConfig()  # type: ignore[assignment]  # optimum looks for it there
    for name, parameter in encoder.named_parameters():
        wanted = getattr(torch, plan.table if name == TABLE else plan.weights)
        if (
            wanted.is_floating_point
        ):  # int8 parameters are so by themselves, the others beside them stay float32
            parameter.data = parameter.data.to(wanted)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # deprecation of the tracer optimum drives, shape inference of our operators
        path = Path(folder) / "traced.onnx"
        # A last bit that differs turns roundings to int8 over, and with random weights each layer enlarges that.
        atol = plan.atol * (10 if plan.weights == "int8" and a.layers > 12 else 1)
        on_cpu = plan.batch != "packed"
        _, outputs = export(
            encoder, EncoderOnnxConfig(encoder, attention, TRACED_ROWS, atol, runs_on_cpu=on_cpu), path, opset=OPSET,
            do_constant_folding=False,
        )  # fmt: skip
        for batch in range(len(attention.dummy_inputs(TRACED_ROWS))):
            config = EncoderOnnxConfig(encoder, attention, TRACED_ROWS, atol, batch)
            if on_cpu:
                validate_model_outputs(config, encoder, path, outputs, use_subprocess=False)
            else:
                _evaluate(plan, encoder, path, config.generate_dummy_inputs())
        return onnx.load(path)


def _evaluate(plan: Plan, encoder: TracedEncoder, path: Path, inputs: dict[str, torch.Tensor]) -> None:
    """No CPU has kernels for these operators, so the runtime's own evaluator takes ONNX Runtime's place."""
    found = Evaluator(path.read_bytes(), path.parent).run(
        {name: value.numpy() for name, value in inputs.items()}
    )
    with torch.inference_mode():
        expected = encoder(**inputs)
    for name, value in expected.items():
        apart = float(np.abs(found[name] - value.numpy()).max())
        if not apart <= plan.atol:
            raise ValueError(
                f"{plan.file}: {name} differs from PyTorch by {apart:.1e}, allowed {plan.atol:.0e}"
            )


def _count_operators(model: onnx.ModelProto, plan: Plan, layers: int) -> None:
    found: dict[str, int] = {}

    def count(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            found[name] = found.get(name, 0) + 1
            for attribute in node.attribute:
                count(attribute.g)

    count(model.graph)
    for operator, each in plan.operators.items():
        expected = each * layers + (operator == "LayerNormalization")
        if found.get(operator, 0) != expected:
            raise ValueError(
                f"{plan.file}: expected {expected} {operator}, the trace has {found.get(operator, 0)}"
            )
