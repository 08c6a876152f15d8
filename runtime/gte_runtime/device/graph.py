"""Loads a graph into ONNX Runtime and checks that it takes and gives what the manifest promises."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import AnyArray, Bool, Float32
from ..errors import (
    BundleError,
    BundleVersionError,
    Cancelled,
    ConfigError,
    NoThread,
    OutOfMemory,
    ProviderUnavailableError,
)
from ..format.manifest import LOGITS, STATES, VECTORS, Variant
from ..inference.session import Outputs
from ..machine.forks import outlive_forks
from ..machine.native import native
from .runtime import (
    MEMORY_WORDS,
    PROVIDERS,
    SILENT,
    available_providers,
    message_of,
    release_of,
    require_provider,
    runtime,
)

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
"""Every input that `inference.batch` can make."""

ARENA = {
    "arena_extend_strategy": 0,  # regions of at least the sizes below
    "initial_chunk_size_bytes": 64 * 2**20,
    "initial_growth_chunk_size_bytes": 64 * 2**20,
    "max_power_of_two_extend_bytes": 256 * 2**20,
}
"""Regions of the arena that all CPU sessions share. glibc maps blocks of more than 32 MB separately and
unmaps them when they are freed. Smaller ones, which ONNX Runtime requests by default, lie between others on
the heap, where freed memory is rarely returned to the system: resident memory grew by a third in 180 random
batches. Pages that were never touched take no memory. See docs/decisions/memory-arena.md."""

EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""The session option for int8 kernels that do not add products in 16 bits."""

NO_THREAD_WORDS = "pthread_create failed"
NO_DEVICE_WORDS = ("cuda failure", "invalid device id", "no kernel image", "disable_cpu_ep_fallback")

TOO_NEW_WORDS = (
    "opset",
    "ir_version",
    "ir version",
    "not a registered function/op",
    "no op registered",
    "is under development",
)


def fetched(variant: Variant, states: bool) -> tuple[str, ...]:
    """Names of the outputs to fetch. Raises ConfigError when states are wanted and the graph does not give
    them."""
    if not states:
        return variant.outputs if variant.outputs == LOGITS else VECTORS
    if variant.outputs != STATES:
        raise ConfigError(
            f"{variant.graph} gives no states of tokens; build the bundle again with this version: "
            "`gte build CHECKPOINT BUNDLE --overwrite`, or `gte pull` for a model of the hub"
        )
    return STATES


def outputs_of(cls: Float32, per_token: Sequence[AnyArray], mask: Bool | None) -> Outputs:
    """A graph's outputs as those of one batch.

    Args:
        cls: states of the first tokens, [B, H].
        per_token: token weights, [T], and optionally token states, [1, T, H]; in padded graphs [B, S] and [B,
            S, H].
        mask: where a padded batch has tokens, [B, S]; None for graphs without padding.
    """
    weights = per_token[0] if mask is None else per_token[0][mask]
    if len(per_token) == 1:
        return Outputs(cls, weights)
    states = per_token[1][0] if mask is None else per_token[1][mask]
    return Outputs(cls, weights, token_states=states.astype(np.float32, copy=False))


@cache
def share_arena() -> bool:
    """Register one arena for all CPU sessions of this process. False where the host program has registered
    another before."""
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
    """Whether int8 products are wrong on this processor unless EXACT_PRODUCTS is set.

    On x86 without VNNI, pairs of products are added in 16 bits, and an overflow is not reported. Setting
    EXACT_PRODUCTS everywhere is no solution: it selects the kernels of old processors, ten times slower than
    AMX. See docs/decisions/int8-probe.md.
    """
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = SILENT
    graph = (Path(__file__).parent / "int8_probe.onnx").read_bytes()
    with native():
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
    """An ONNX Runtime session on one provider and no other.

    Args:
        graph: the ONNX file's bytes.
        folder: where its weight files lie.
        variant: what the manifest promises about the graph.
        provider: "cpu", "cuda" or "tensorrt".
        threads: of ONNX Runtime's thread pool.
        provider_options: as ONNX Runtime documents them.
        entries: further session options.

    Raises:
        ProviderUnavailableError: the provider, or its device, is not there.
        BundleVersionError: the graph needs a newer ONNX Runtime.
        BundleError: the graph does not load.
        OutOfMemory: the weights do not fit.
        NoThread: the system gives no threads for the pool.
    """
    onnxruntime = runtime()
    if release_of(onnxruntime.__version__) < release_of(variant.min_onnxruntime):
        raise BundleVersionError(
            f"{variant.graph} needs ONNX Runtime {variant.min_onnxruntime} or newer, this is "
            f"{onnxruntime.__version__}; upgrade onnxruntime"
        )
    name = require_provider(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT  # messages hold absolute paths; failures reach us as exceptions
    options.enable_mem_pattern = False  # it would keep a plan for every shape ever seen
    if b"MatMulIntegerToFloat" in graph and pair_sums_overflow():
        options.add_session_config_entry(*EXACT_PRODUCTS)
    if provider == "cpu" and share_arena():
        options.add_session_config_entry("session.use_env_allocators", "1")
    # Not resolved: a path below /proc/self/fd leads to an open directory, whatever its name has become.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.path.abspath(folder)
    )
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    # With this variable set, session options inside the graph would replace ours.
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)
    try:
        with native():
            session = onnxruntime.InferenceSession(
                graph,
                options,
                providers=[(name, dict(provider_options or {}))],
                # The CPU kernel of the fused operator is slower than its parts: 9 % of a run at 8x128 tokens.
                disabled_optimizers=["SkipLayerNormFusion"] if provider == "cpu" else None,
                # By default the Python wrapper prints to stdout and continues on another provider.
                enable_fallback=0,
            )
    except Cancelled:
        raise  # Python is exiting
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base
        words = str(error).lower()
        if any(word in words for word in TOO_NEW_WORDS):
            raise BundleVersionError(
                f"{variant.graph} needs a newer ONNX Runtime than {onnxruntime.__version__}, although its "
                f"manifest promises that ORT >= {variant.min_onnxruntime} will do: {message_of(error)}"
            ) from None
        if any(word in words for word in MEMORY_WORDS):
            raise OutOfMemory(f"not enough memory to load {variant.graph}") from None
        if NO_THREAD_WORDS in words:
            raise NoThread("ONNX Runtime needs more") from None
        if any(word in words for word in NO_DEVICE_WORDS):
            raise ProviderUnavailableError(
                provider, available_providers(), f"{message_of(error)}; `gte doctor` shows driver and GPUs"
            ) from None
        raise BundleError(f"{variant.graph} does not load: {message_of(error)}") from None
    if session.get_providers()[0] != name:
        raise ProviderUnavailableError(
            provider, available_providers(), "it gave no reason; `gte doctor` shows what it needs"
        )
    return outlive_forks(session)


def check_signature(session: Any, variant: Variant, width: int) -> None:
    """Compare names, types and shapes with the manifest's before the first run, which would fail less
    clearly.

    Raises:
        BundleError: naming what differs.
    """
    inputs = tuple(i.name for i in session.get_inputs())
    outputs = tuple(o.name for o in session.get_outputs())
    if (
        set(inputs) != set(variant.inputs)
        or outputs != variant.outputs
        or not set(inputs) <= INPUT_TYPES.keys()
    ):
        raise BundleError(
            f"{variant.graph}: expected inputs {', '.join(variant.inputs)} "
            f"and outputs {', '.join(variant.outputs)}, found {', '.join(inputs)} and {', '.join(outputs)}"
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
                f"{variant.graph}: expected {width} values in each row of {output.name}, "
                f"found {output.shape[-1]}"
            )
