"""Describes an encoder to optimum: inputs, outputs, dynamic axes, dummy inputs, tolerance."""

from __future__ import annotations

from typing import Any

from optimum.exporters.onnx import OnnxConfig
from optimum.utils import NormalizedTextConfig
from transformers import PretrainedConfig

from .attention import TracedAttention
from .encoders.float import TracedEncoder


class EncoderOnnxConfig(OnnxConfig):
    """The description of one encoder with one of its attention's dummy batches."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig
    MIN_TRANSFORMERS_VERSION = OnnxConfig.MIN_TRANSFORMERS_VERSION

    def __init__(
        self,
        encoder: TracedEncoder,
        attention: TracedAttention,
        rows: int,
        atol: float,
        batch: int = 0,
        *,
        runs_on_cpu: bool = True,
    ) -> None:
        """Describe an encoder.

        Args:
            encoder: the encoder.
            attention: the attention in it.
            rows: the number of rows of the traced embedding table, which bounds the token ids.
            atol: the largest absolute difference to PyTorch that optimum accepts.
            batch: the index of the dummy batch.
            runs_on_cpu: ONNX Runtime has CPU kernels for all operators of the graph.
        """
        super().__init__(PretrainedConfig())
        self.encoder = encoder
        self.attention = attention
        self.rows = rows
        self.ATOL_FOR_VALIDATION = atol
        self.batch = batch
        self.runs_on_cpu = runs_on_cpu

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {name: dict(axes) for name, axes in self.attention.inputs.items()}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {name: dict(axes) for name, axes in self.encoder.outputs.items()}

    def fix_dynamic_axes(self, *arguments: Any, **options: Any) -> None:
        """Let optimum run the graph to find further dynamic axes, if it can run on a CPU."""
        if self.runs_on_cpu:
            super().fix_dynamic_axes(*arguments, **options)

    def generate_dummy_inputs(self, framework: str = "pt", **_: Any) -> dict[str, Any]:
        inputs = self.attention.dummy_inputs(self.rows)[self.batch]
        return inputs if framework == "pt" else {name: value.numpy() for name, value in inputs.items()}
