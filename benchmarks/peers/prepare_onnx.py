"""`quantize_dynamic` of the plain export: python -m peers.prepare_onnx MODEL TARGET.

Weights per channel, as the documentation advises for accuracy; seven bits where the processor has no
VNNI, as it advises against saturation.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    vnni = "vnni" in Path("/proc/cpuinfo").read_text()
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=not vnni,
        use_external_data_format=True,
        extra_options={"MatMulConstBOnly": True},
    )


if __name__ == "__main__":
    main()
