"""Traces encoders into the graphs of an architecture, and writes them with their layouts and recipe.

optimum runs the tracer and compares each graph with PyTorch on random weights. The embedding and RoPE tables
are traced with a few rows; their full height is written when `detach` replaces the weights by pointers.
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
from .plans import Plan
from .plans import plans as plans  # tests trace with others

TRACED_ROWS = 32
"""Rows of the embedding and RoPE tables while tracing; not fewer than the longest dummy text has tokens."""


def trace(source: Path, output: Path) -> Recipe:
    """Write graphs, layouts and recipe.toml for an architecture.

    Args:
        source: a config.json, a recipe.toml, or a directory with one of them.
        output: a directory, made if it does not exist. Its name becomes the architecture's.

    Raises:
        CheckpointError: the config is of a model that is not implemented.
        ValueError: a traced graph differs from PyTorch, or lacks a fused operator.
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
    """The architecture of `source`, and whether it is a reranker's: by its tensors, else by its config."""
    if (source / "model.safetensors").is_file():
        with Checkpoint(source, ignore_unused=True) as checkpoint:
            return checkpoint.config.architecture, checkpoint.reranker
    if source.name == RECIPE or ((source / RECIPE).exists() and not (source / "config.json").exists()):
        recipe = read_recipe(source.parent if source.name == RECIPE else source)
        return recipe.architecture, recipe.reranker
    config = read_config(source)
    return config.architecture, config.names_reranker


def layout_name(layout: Layout) -> str:
    """The file name of a layout."""
    return f"{layout.file.removesuffix('.bin')}.layout.json"


def _graph(
    plan: Plan, a: Architecture, layouts: dict[str, Layout], output: Path, reranker: bool
) -> GraphRecipe:
    """Trace one graph, write it, and return its entry of the recipe."""
    files = (table_file(plan.table), plan.file_of_weights(plan.weights))
    model = detach(_traced(plan, a, reranker), [layouts[file] for file in files])
    _count_operators(model, plan, a.layers)
    if not reranker:
        # The tracer does not infer shapes after custom operators, so the width of the outputs is set here.
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
    """Trace with random weights and compare every path with PyTorch. Returns the graph with its weights."""
    torch.manual_seed(0)
    small = replace(a, vocab_size=TRACED_ROWS, max_positions=TRACED_ROWS)
    attention = plan.attention(small)
    encoder = plan.encoder(small, attention).eval()
    if reranker:
        encoder = encoder.as_reranker().eval()
    encoder.config = PretrainedConfig()  # type: ignore[assignment]  # optimum looks for it there
    for name, parameter in encoder.named_parameters():
        wanted = getattr(torch, plan.table if name == TABLE else plan.weights)
        # int8 parameters have their type from the start; the others of such an encoder stay float32.
        if wanted.is_floating_point:
            parameter.data = parameter.data.to(wanted)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The tracer that optimum uses is deprecated, and it warns of the shapes of custom operators.
        warnings.simplefilter("ignore")
        path = Path(folder) / "traced.onnx"
        # A difference in the last bit can change a rounding to int8, and with random weights each layer
        # amplifies it.
        atol = plan.atol * (10 if plan.weights == "int8" and a.layers > 12 else 1)
        on_cpu = plan.batch != "packed"
        _, outputs = export(
            encoder, EncoderOnnxConfig(encoder, attention, TRACED_ROWS, atol, runs_on_cpu=on_cpu), path,
            opset=OPSET,
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
    """As `validate_model_outputs`, but in numpy: ONNX Runtime has no CPU kernels for packed graphs."""
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
    """Raises ValueError if the graph has not the operators that its plan counts."""
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
