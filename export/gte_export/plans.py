"""Which graphs an architecture gets, and how each is made: encoder, attention, weights, tolerances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from gte_runtime.building.int8 import OUTLIERS
from gte_runtime.format.architecture import Architecture

from .attention import TracedAttention
from .attention.packed import PackedAttention
from .attention.padded import PaddedAttention
from .attention.ragged import RaggedAttention
from .encoders.float import Encoder, TracedEncoder
from .encoders.int8 import Int8Encoder
from .encoders.packed import PackedEncoder
from .layout import OUTLIERS_FILE, packed_file, splits_in_one_kernel, table_file, weights_file

INT8_DISTANCE = 0.1
"""A cosine of 0.995. Narrow models with random weights come near it; wide ones are above 0.9995."""


SKIP_NORM_IN_FP32 = "1.27"
"""The first release in which SkipLayerNormalization sums in float32
(https://github.com/microsoft/onnxruntime/pull/28682)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One graph to make. A variant has one for each type of embedding table that it supports."""

    variant: str
    table: str
    """Type of the embedding table in the weight file."""
    weights: str
    """Type of all other weights."""
    batch: str
    """`ragged`, `packed` or `padded`."""
    file_of_weights: Callable[[str], str] = weights_file
    """From a type to the name of the weight file."""
    attention: Callable[[Architecture], TracedAttention]
    encoder: Callable[[Architecture, TracedAttention], TracedEncoder] = Encoder
    min_onnxruntime: str
    tolerance: float
    """The largest Euclidean distance of an L2-normalised vector to the oracle's that a build accepts."""
    atol: float
    """The largest absolute difference to PyTorch that tracing accepts, of raw outputs with random weights."""
    outliers: bool = False
    """The form for checkpoints with outlying channels."""
    operators: dict[str, int]
    """{operator: its number in each layer}. A tracer can replace one silently, so they are counted."""

    @property
    def file(self) -> str:
        """The graph's file name."""
        form = "-outliers" if self.outliers else ""
        return f"{self.variant}{form}.{table_file(self.table).removesuffix('.bin')}.onnx"


def plans(a: Architecture) -> Iterator[Plan]:
    """Yield every graph of an architecture."""
    fused = {"com.microsoft::RotaryEmbedding": 2, "com.microsoft::MultiHeadAttention": 2, "If": 1, "Gelu": 1}
    plain = {"Softmax": 1, "Gelu": 1, "LayerNormalization": 2}
    for table in ("float16", "float32"):
        yield Plan(
            variant="cpu-fp32", table=table, weights="float32", batch="ragged", attention=RaggedAttention,
            min_onnxruntime="1.24", tolerance=2e-5, atol=2e-5, operators=fused,
        )  # fmt: skip
        yield Plan(
            variant="portable-fp32", table=table, weights="float32", batch="padded",
            attention=PaddedAttention,
            min_onnxruntime="1.20", tolerance=2e-5, atol=2e-5, operators=plain,
        )  # fmt: skip
    yield Plan(
        variant="cpu-int8", table="int8", weights="int8", batch="ragged",
        attention=RaggedAttention, encoder=Int8Encoder,
        min_onnxruntime="1.24", tolerance=INT8_DISTANCE,
        atol=3e-2,  # a value halfway between two steps may be rounded either way
        operators=fused | {"com.microsoft::MatMulIntegerToFloat": 7, "QuantizeLinear": 4},
    )  # fmt: skip
    yield Plan(
        variant="cpu-int8", outliers=True, table="int8", weights="int8", batch="ragged",
        attention=RaggedAttention,
        encoder=partial(Int8Encoder, outliers=OUTLIERS), file_of_weights=lambda _: OUTLIERS_FILE,
        min_onnxruntime="1.24", tolerance=INT8_DISTANCE, atol=3e-2,
        operators=fused | {"com.microsoft::MatMulIntegerToFloat": 7, "QuantizeLinear": 4},
    )  # fmt: skip
    gelu = "com.microsoft::BiasSplitGelu" if splits_in_one_kernel(a) else "Gelu"
    yield Plan(
        variant="cuda-fp16", table="float16", weights="float16", batch="packed",
        attention=PackedAttention, encoder=PackedEncoder,
        file_of_weights=packed_file, min_onnxruntime=SKIP_NORM_IN_FP32, tolerance=1e-2, atol=2e-2,
        operators={
            "com.microsoft::RotaryEmbedding": 2, "com.microsoft::PackedMultiHeadAttention": 1,
            "com.microsoft::SkipLayerNormalization": 2,
            gelu: 1, "LayerNormalization": 0, "Gemm": 0,
        },
    )  # fmt: skip
    yield Plan(
        variant="portable-fp16", table="float16", weights="float16", batch="padded",
        attention=PaddedAttention,
        min_onnxruntime="1.20", tolerance=1e-2, atol=2e-2, operators=plain,
    )  # fmt: skip
