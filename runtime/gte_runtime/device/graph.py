"""TODO"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Float32
from ..errors import (
    BundleError,
    BundleVersionError,
    ConfigError,
    OutOfMemory,
    ProviderUnavailableError,
)
from ..format.manifest import LOGITS, STATES, VECTORS
from ..machine.forks import outlive_forks

if TYPE_CHECKING:
    from ..format.manifest import Variant
from ..inference.session import Outputs
from .runtime import MEMORY_WORDS, PROVIDERS, _clean, _release, available_providers, require_provider, runtime

INPUT_TYPES = {
    "input_ids": "tensor(int64)",
    "attention_mask": "tensor(int64)",
    "position_ids": "tensor(int64)",
    "cu_seqlens": "tensor(int32)",
    "padded_index": "tensor(int64)",
    "flat_index": "tensor(int64)",
    "token_offset": "tensor(int32)",
    "uniform": "tensor(bool)",
}
"""Every input that `batching` can make."""

ARENA = {
    "arena_extend_strategy": 0,  # regions of at least the sizes below
    "initial_chunk_size_bytes": 64 * 2**20,
    "initial_growth_chunk_size_bytes": 64 * 2**20,
    "max_power_of_two_extend_bytes": 256 * 2**20,
}
"""Regions of the arena that all CPU sessions share. glibc maps blocks of more than 32 MB on their own and unmaps them when
freed; smaller ones, which ONNX Runtime asks for by itself, end up between others on the heap, where what is freed is
rarely given back: resident memory then grew by a third in 180 random batches. Pages that nothing touched cost nothing."""

EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""The session entry that takes int8 kernels without sums in 16 bits."""

NO_DEVICE_WORDS = ("cuda failure", "invalid device id", "no kernel image", "disable_cpu_ep_fallback")

TOO_NEW_WORDS = (
    "opset",
    "ir_version",
    "ir version",
    "not a registered function/op",
    "no op registered",
    "is under development",
)


def wanted(variant: Variant, states: bool) -> tuple[str, ...]:
    """The outputs to fetch. Raises ConfigError when the graph does not give states."""
    if not states:
        return variant.outputs if variant.outputs == LOGITS else VECTORS
    if variant.outputs != STATES:
        raise ConfigError(
            f"{variant.graph} gives no states of tokens; build the bundle again with this version: "
            "`gte build CHECKPOINT BUNDLE --overwrite`, or `gte pull` for a model of the hub"
        )
    return STATES


def collected(cls: Float32, per_token: Sequence[NDArray[Any]], mask: NDArray[np.bool_] | None) -> Outputs:
    """Outputs of a graph as one batch's. `per_token` are its token weights and, if asked for, states; `mask` says where a
    padded batch has tokens."""
    weights = per_token[0] if mask is None else per_token[0][mask]
    if len(per_token) == 1:
        return Outputs(cls, weights)
    states = per_token[1][0] if mask is None else per_token[1][mask]
    return Outputs(cls, weights, token_states=states.astype(np.float32, copy=False))


@cache
def share_arena() -> bool:
    """One arena for the CPU sessions of this process; False where the host program has registered another."""
    onnxruntime = runtime()
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    try:
        onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg(ARENA))
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors share no base
        return False
    return True


@cache
def pair_sums_overflow() -> bool:
    """Whether this processor's int8 products come out wrong unless exact ones are asked for.

    x86 without VNNI adds pairs of products in 16 bits, which overflows without a word. Asking for exact ones
    everywhere is no way out: it takes the kernels of old processors, ten times slower than AMX.
    """
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    graph = (Path(__file__).parent / "int8_probe.onnx").read_bytes()
    session = onnxruntime.InferenceSession(graph, options, providers=[PROVIDERS["cpu"]])
    side = session.get_inputs()[0].shape[1]
    (found,) = session.run(None, {"x": np.full((side, side), 255, np.uint8)})
    return not bool((found == 127 * 127 * side).all())


def load_graph(
    graph: bytes,
    folder: Path,
    variant: Variant,
    provider: str,
    threads: int,
    *,
    provider_options: Mapping[str, str] | None = None,
    entries: Mapping[str, str] | None = None,
) -> Any:
    """A session of ONNX Runtime on one provider and no other. `entries` are further session options."""
    onnxruntime = runtime()
    if _release(onnxruntime.__version__) < _release(variant.min_onnxruntime):
        raise BundleVersionError(
            f"{variant.graph} needs ONNX Runtime {variant.min_onnxruntime} or newer, this is {onnxruntime.__version__}; upgrade onnxruntime"
        )
    wanted = require_provider(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its messages hold absolute paths; failures reach us as exceptions
    options.enable_mem_pattern = False  # it keeps a plan for every shape ever seen
    if b"MatMulIntegerToFloat" in graph and pair_sums_overflow():
        options.add_session_config_entry(*EXACT_PRODUCTS)
    if provider == "cpu" and share_arena():
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.resolve())
    )
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    # A model may carry its own session options. Ours are not for a model to change.
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)
    try:
        session = onnxruntime.InferenceSession(
            graph,
            options,
            providers=[(wanted, dict(provider_options or {}))],
            # The CPU kernel of the fused operator is slower than its parts: 9 % of a run at 8x128 tokens.
            disabled_optimizers=["SkipLayerNormFusion"] if provider == "cpu" else None,
            # Without this the wrapper prints to stdout and goes on with another provider.
            enable_fallback=0,
        )
    except Exception as error:  # noqa: BLE001 - the same
        words = str(error).lower()
        if any(word in words for word in TOO_NEW_WORDS):
            raise BundleVersionError(
                f"{variant.graph} needs a newer ONNX Runtime than {onnxruntime.__version__}, although its manifest promises "
                f"that ORT >= {variant.min_onnxruntime} will do: {_clean(error)}"
            ) from None
        if any(word in words for word in MEMORY_WORDS):
            raise OutOfMemory(f"not enough memory to load {variant.graph}") from None
        if any(word in words for word in NO_DEVICE_WORDS):
            raise ProviderUnavailableError(
                provider, available_providers(), f"{_clean(error)}; `gte doctor` shows driver and GPUs"
            ) from None
        raise BundleError(f"{variant.graph} does not load: {_clean(error)}") from None
    if session.get_providers()[0] != wanted:
        raise ProviderUnavailableError(
            provider, available_providers(), "it gave no reason; `gte doctor` shows what it needs"
        )
    return outlive_forks(session)


def check_signature(session: Any, variant: Variant, width: int) -> None:
    """Names are compared before the first run: a graph with others would fail later and less clearly."""
    inputs = tuple(i.name for i in session.get_inputs())
    outputs = tuple(o.name for o in session.get_outputs())
    if (
        set(inputs) != set(variant.inputs)
        or outputs != variant.outputs
        or not set(inputs) <= INPUT_TYPES.keys()
    ):
        raise BundleError(
            f"{variant.graph}: expected inputs {', '.join(variant.inputs)} and outputs {', '.join(variant.outputs)}, "
            f"found {', '.join(inputs)} and {', '.join(outputs)}"
        )
    for value in session.get_inputs():
        if value.type != INPUT_TYPES[value.name] or any(isinstance(dim, int) for dim in value.shape):
            raise BundleError(
                f"{variant.graph}: expected {INPUT_TYPES[value.name]} of any size for {value.name}, "
                f"found {value.type} of shape {value.shape}"
            )
    for output in session.get_outputs():
        if output.type != "tensor(float)" and (output.type, output.name) != ("tensor(float16)", STATES[-1]):
            raise BundleError(f"{variant.graph}: expected float32 from {output.name}, found {output.type}")
        if output.name in ("cls", STATES[-1]) and output.shape[-1] != width:
            raise BundleError(
                f"{variant.graph}: expected {width} values in each row of {output.name}, found {output.shape[-1]}"
            )
